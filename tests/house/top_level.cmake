# The top level holds these and nothing else (of what git tracks, or of everything outside git).
#   cmake -DROOT=<tree> -P top_level.cmake
cmake_minimum_required(VERSION 3.25)
set(allowed CMakeLists.txt core sim replay kernels gui traces tests README.md
            Makefile CMakePresets.json LICENSE CITATION.cff)  # second line: what tooling forces
execute_process(COMMAND git -C ${ROOT} ls-files OUTPUT_VARIABLE tracked RESULT_VARIABLE failed ERROR_QUIET)
if(failed OR tracked STREQUAL "")
  file(GLOB found RELATIVE ${ROOT} ${ROOT}/*)
  list(FILTER found EXCLUDE REGEX "^(build(-.*)?|demo-out|compile_commands\\.json)$")
else()
  string(REPLACE "\n" ";" found "${tracked}")
  list(TRANSFORM found REPLACE "/.*" "")
endif()
list(REMOVE_DUPLICATES found)
set(faults "")
foreach(entry ${found})
  if(NOT entry IN_LIST allowed AND NOT entry MATCHES "^\\.")
    list(APPEND faults ${entry})
  endif()
endforeach()
if(faults)
  message(FATAL_ERROR "not allowed at the top level: ${faults}")
endif()
