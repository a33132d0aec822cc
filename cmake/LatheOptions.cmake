# Compiler and linker settings that hold for every target of ours.
find_program(LATHE_MOLD mold)
add_library(lathe_options INTERFACE)
target_compile_options(lathe_options INTERFACE -Wall -Wextra -Wconversion -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 sees overlaps in "." + std::string that are not there (GCC bug 105651).
  target_compile_options(lathe_options INTERFACE -Wno-restrict)
else()
  # clang's -Wconversion says more than g++'s, and libstdc++'s own std::stable_sort is deprecated to it.
  target_compile_options(lathe_options INTERFACE -Wno-sign-conversion -Wno-deprecated-declarations)
endif()
if(CMAKE_CXX_COMPILER_LAUNCHER AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Without it ccache cannot look through a precompiled header and a fresh clone gets no hits.
  target_compile_options(lathe_options INTERFACE -fpch-preprocess)
endif()
if(LATHE_MOLD)
  target_link_options(lathe_options INTERFACE -fuse-ld=mold)
endif()
if(LATHE_SANITIZE)
  # Undefined behaviour must fail a test, not only print a line.
  target_compile_options(lathe_options INTERFACE -fsanitize=${LATHE_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  target_link_options(lathe_options INTERFACE -fsanitize=${LATHE_SANITIZE})
endif()
if(LATHE_SANITIZE MATCHES "thread")
  # Protobuf's headers lay out map fields otherwise under TSan; the library that is installed does not.
  target_compile_options(lathe_options INTERFACE -U__SANITIZE_THREAD__)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  # Line tables are enough for a stack trace and halve the size of the objects.
  string(REPLACE "-g" "-g1" CMAKE_CXX_FLAGS_DEBUG "${CMAKE_CXX_FLAGS_DEBUG}")
endif()
