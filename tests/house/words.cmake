# No unfinished business and no machine's paths in what is committed.
#   cmake -DROOT=<tree> -P words.cmake
cmake_minimum_required(VERSION 3.25)
set(forbidden "TO[D]O|FIX[M]E|(^|[^X])XX[X]([^X]|$)|HAC[K]|lorem[ ]ipsum|place[h]older|(^|[^a-zA-Z0-9_.])/(home|work|Users)[/]|[.][.]/shared")
set(faults "")
foreach(folder core kernels traces sim replay gui tests .cmake .ci)
  file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/${folder}/*.h ${ROOT}/${folder}/*.cpp ${ROOT}/${folder}/*.cu
       ${ROOT}/${folder}/*.cuh ${ROOT}/${folder}/*.c ${ROOT}/${folder}/*.py ${ROOT}/${folder}/*.sh
       ${ROOT}/${folder}/*.cmake ${ROOT}/${folder}/*.md ${ROOT}/${folder}/CMakeLists.txt)
  foreach(file ${files})
    file(STRINGS ${ROOT}/${file} lines REGEX "${forbidden}")
    foreach(line IN LISTS lines)
      list(APPEND faults "${file}: ${line}")
    endforeach()
  endforeach()
endforeach()
file(STRINGS ${ROOT}/README.md lines REGEX "${forbidden}")
foreach(line IN LISTS lines)
  list(APPEND faults "README.md: ${line}")
endforeach()
if(faults)
  list(JOIN faults "\n  " text)
  message(FATAL_ERROR "forbidden words:\n  ${text}")
endif()
