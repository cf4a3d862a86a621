# Fails on a wrong include: gui → replay → {sim, traces} → kernels → core, and third-party headers only where
# allowed. Includes of the house are always written from the root.
#   cmake -DROOT=<tree> -P arrows.cmake
cmake_minimum_required(VERSION 3.25)

set(may_core core)
set(may_kernels core kernels)
set(may_traces core kernels traces)
set(may_sim core kernels sim)
set(may_replay core kernels traces sim replay)
set(may_gui core replay gui)
set(folders core kernels traces sim replay gui)

# header pattern => files that may include it (a folder may use the libraries of the folders it builds on)
set(third_party
  "^(tbb|oneapi)/ => ^core/parallel\\.cpp$"
  "^boost/json => ^core/json\\.(h|cpp)$"
  "^boost/mpi => ^replay/"
  "^mpi\\.h$ => ^replay/"
  "^(hdf5|hdf5_hl|H5[A-Za-z]*)\\.h$ => ^(traces|replay)/"
  "^Eigen/ => ^(kernels|sim|traces|replay)/"
  "^CLI/ => ^replay/program/"
  "^(Q[A-Z]|qcustomplot) => ^gui/"
  "^(cuda|cublas|cub/|cuda_) => ^(kernels|sim)/"
  "^xxh => ^core/hash\\.cpp$"
  "^sys/mman\\.h$ => ^(traces|kernels)/"
  "^(gtest|gmock|benchmark)/ => ^$")

set(faults "")
foreach(folder ${folders})
  file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/${folder}/*.h ${ROOT}/${folder}/*.cpp ${ROOT}/${folder}/*.cu
       ${ROOT}/${folder}/*.cuh ${ROOT}/${folder}/*.c)
  foreach(file ${files})
    file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
    foreach(line IN LISTS lines)
      string(REGEX MATCH "include[ \t]*([<\"])([^>\"]+)" ignored "${line}")
      set(quoted "${CMAKE_MATCH_1}")
      set(header "${CMAKE_MATCH_2}")
      string(REGEX REPLACE "/.*" "" target "${header}")
      if(quoted STREQUAL "\"")
        if(target IN_LIST folders)
          if(NOT target IN_LIST may_${folder})
            list(APPEND faults "${file}: ${folder} must not include ${header}")
          endif()
        elseif(NOT header MATCHES "^(hdf5|Eigen|fmt|CLI|cuda|cublas|xxh|q)")
          list(APPEND faults "${file}: include \"${header}\" is not written from the root")
        endif()
      endif()
      foreach(rule ${third_party})
        string(REGEX MATCH "^(.*) => (.*)$" ignored "${rule}")
        set(pattern "${CMAKE_MATCH_1}")
        set(allowed "${CMAKE_MATCH_2}")
        if(header MATCHES "${pattern}" AND NOT file MATCHES "${allowed}")
          list(APPEND faults "${file}: only ${allowed} may include ${header}")
        endif()
      endforeach()
    endforeach()
  endforeach()
endforeach()

if(faults)
  list(JOIN faults "\n  " text)
  message(FATAL_ERROR "wrong includes:\n  ${text}")
endif()
