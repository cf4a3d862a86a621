# Targets of the house: one library a folder, warnings through one interface target.
add_library(kvgrind_warnings INTERFACE)
target_compile_options(kvgrind_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wcast-align -Woverloaded-virtual -Wno-missing-field-initializers
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>>  # g++ 12 sees overlaps in std::string that are not there
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${KVGRIND_WERROR}>>:-Werror>)
if(KVGRIND_SANITIZE)
  target_compile_options(kvgrind_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${KVGRIND_SANITIZE} -fno-omit-frame-pointer>)
  target_link_options(kvgrind_warnings INTERFACE -fsanitize=${KVGRIND_SANITIZE})
endif()

# kvgrind_folder(NAME [LINK libs…]): a static library of every .cpp below the current folder.
function(kvgrind_folder name)
  cmake_parse_arguments(arg "" "" "LINK;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  foreach(pattern ${arg_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  add_library(kvgrind_${name} STATIC ${sources})
  target_include_directories(kvgrind_${name} PUBLIC ${CMAKE_SOURCE_DIR} PRIVATE ${CMAKE_BINARY_DIR}/generated)
  target_link_libraries(kvgrind_${name} PUBLIC ${arg_LINK} PRIVATE kvgrind_warnings)
  set_target_properties(kvgrind_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

# kvgrind_rows(TARGET folder type namespace): a generated table of `extern const` rows, one a file, named after
# the file. A new file appears at the next build; a misnamed row is a link error.
function(kvgrind_rows target folder type namespace)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp)
  set(declarations "")
  set(entries "")
  foreach(file ${files})
    get_filename_component(row ${file} NAME_WE)
    string(APPEND declarations "extern const ${type} ${row};\n")
    string(APPEND entries "  &${namespace}::${row},\n")
  endforeach()
  set(out ${CMAKE_CURRENT_BINARY_DIR}/rows_${folder}.cpp)
  file(CONFIGURE OUTPUT ${out} CONTENT
"// Generated from the files of sim/${folder}.
#include \"sim/engine/primitive.h\"
namespace ${namespace} {
@declarations@}
namespace kvgrind::sim {
const std::vector<const ${type}*>& ${folder}_rows() {
  static const std::vector<const ${type}*> rows = {
@entries@  };
  return rows;
}
}
" @ONLY)
  target_sources(${target} PRIVATE ${out})
endfunction()

# kvgrind_embed(TARGET symbol files…): text files as a name → text table, `const std::vector<EmbeddedText>& symbol()`.
function(kvgrind_embed target symbol)
  set(entries "")
  foreach(file ${ARGN})
    get_filename_component(stem ${file} NAME_WE)
    file(READ ${file} text)
    string(APPEND entries "  {\"${stem}\", R\"kvgembed(${text})kvgembed\"},\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  endforeach()
  set(out ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.cpp)
  file(CONFIGURE OUTPUT ${out} CONTENT
"// Generated.
#include \"core/embedded_text.h\"
namespace kvgrind {
const std::vector<EmbeddedText>& ${symbol}() {
  static const std::vector<EmbeddedText> table = {
@entries@  };
  return table;
}
}
" @ONLY)
  target_sources(${target} PRIVATE ${out})
endfunction()

# kvgrind_test(name sources…  LINK libs… LABELS labels…)
function(kvgrind_test name)
  cmake_parse_arguments(arg "" "" "LINK;LABELS" ${ARGN})
  if(NOT arg_UNPARSED_ARGUMENTS)
    message(WARNING "no tests in ${CMAKE_CURRENT_SOURCE_DIR}")
    return()
  endif()
  add_executable(test_${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(test_${name} PRIVATE ${arg_LINK} kvgrind_warnings GTest::gtest GTest::gmock kvgrind_test_main)
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(test_${name} PRIVATE
    KVGRIND_SOURCE_DIR="${CMAKE_SOURCE_DIR}" KVGRIND_BINARY_DIR="${CMAKE_BINARY_DIR}")
  gtest_discover_tests(test_${name} PROPERTIES LABELS "${name};${arg_LABELS}" DISCOVERY_TIMEOUT 60
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()
