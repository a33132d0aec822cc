# One folder, one target, one layer: the three functions every CMakeLists.txt below uses.
#
#   lathe_library(NAME SOURCES a.cc ... [DEPS public...] [PRIVATE_DEPS ...] [TORCH])
#   lathe_executable(NAME SOURCES main.cc ... [DEPS ...] [TORCH] [FAULTS])
#   lathe_test(NAME SOURCES a_test.cc ... LABELS unit|integration|e2e|slow|gpu [DEPS ...] [TORCH])
#
# Library NAME is target lathe_NAME with alias lathe::NAME. TORCH adds libtorch and the one
# precompiled header. Headers of a library without sources are an INTERFACE target. FAULTS: bin/chaos/NAME is the same
# program with fault points that obey (common/fault/fault.h).
include_guard()
set(LATHE_SIZE_LABELS unit integration e2e slow gpu)

function(_lathe_common target torch)
  target_link_libraries(${target} PRIVATE lathe_options)
  if(torch)
    target_link_libraries(${target} PUBLIC lathe::torch)
    # CMake gives programs -fPIE; g++ refuses a header that was precompiled with -fPIC then.
    target_compile_options(${target} PRIVATE -fPIC)
    target_precompile_headers(${target} REUSE_FROM lathe_torch_pch)
  endif()
endfunction()

function(lathe_library name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(lathe_${name} STATIC ${ARG_SOURCES})
    target_include_directories(lathe_${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(lathe_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
    _lathe_common(lathe_${name} "${ARG_TORCH}")
  else()
    add_library(lathe_${name} INTERFACE)
    target_include_directories(lathe_${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(lathe_${name} INTERFACE ${ARG_DEPS})
  endif()
  add_library(lathe::${name} ALIAS lathe_${name})
endfunction()

function(lathe_executable name)
  cmake_parse_arguments(ARG "TORCH;FAULTS" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  _lathe_common(${name} "${ARG_TORCH}")
  if(ARG_FAULTS)
    add_executable(${name}-chaos $<TARGET_OBJECTS:${name}>)
    set_target_properties(${name}-chaos PROPERTIES OUTPUT_NAME ${name} LINKER_LANGUAGE CXX
      RUNTIME_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/chaos)
    target_link_libraries(${name}-chaos PRIVATE lathe_fault_armed ${ARG_DEPS} lathe_options)
  endif()
endfunction()

function(lathe_test name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;LABELS;DEPS" ${ARGN})
  set(sizes ${ARG_LABELS})
  list(FILTER sizes INCLUDE REGEX "^(unit|integration|e2e|slow|gpu)$")
  list(LENGTH sizes num_sizes)
  if(NOT num_sizes EQUAL 1)
    message(FATAL_ERROR "lathe_test(${name}): LABELS has '${ARG_LABELS}'; it needs exactly one of ${LATHE_SIZE_LABELS}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  _lathe_common(${name} "${ARG_TORCH}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if("unit" IN_LIST ARG_LABELS)
    add_dependencies(unit_tests ${name})
  endif()
  # One ctest entry per binary: starting a torch program costs half a second each time.
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}"
    ENVIRONMENT "LATHE_BIN_DIR=${CMAKE_BINARY_DIR}/bin;OMP_NUM_THREADS=1")
endfunction()
