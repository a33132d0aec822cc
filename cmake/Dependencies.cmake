# Everything that comes from outside. scripts/setup puts it there; versions are pinned in scripts/deps/.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)
find_package(CLI11 REQUIRED)

if(LATHE_BUILD_SERVICE)
  find_package(Protobuf REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED)
  find_package(SQLite3 REQUIRED)
  find_package(CURL 7.85 REQUIRED)
  find_library(LATHE_GRPC_REFLECTION grpc++_reflection REQUIRED)
endif()

if(DEFINED ENV{LATHE_CACHE})
  set(_cache $ENV{LATHE_CACHE})
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(_cache $ENV{XDG_CACHE_HOME}/lathe)
else()
  set(_cache $ENV{HOME}/.cache/lathe)
endif()
set(LATHE_CACHE_DIR ${_cache} CACHE PATH "Folder that scripts/setup filled")

if(LATHE_BUILD_ENGINE)
  set(LATHE_TORCH_DIR ${LATHE_CACHE_DIR}/deps/libtorch-2.11.0-cpu CACHE PATH "Unpacked libtorch wheel")
  if(NOT EXISTS ${LATHE_TORCH_DIR}/torch/lib/libtorch_cpu.so)
    message(FATAL_ERROR "libtorch: got nothing at ${LATHE_TORCH_DIR}; run scripts/setup, or set LATHE_BUILD_ENGINE=OFF")
  endif()
  add_library(lathe_torch INTERFACE)
  add_library(lathe::torch ALIAS lathe_torch)
  set(_torch ${LATHE_TORCH_DIR}/torch)
  target_include_directories(lathe_torch SYSTEM INTERFACE
    ${_torch}/include ${_torch}/include/torch/csrc/api/include)
  target_compile_definitions(lathe_torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
  target_link_libraries(lathe_torch INTERFACE ${_torch}/lib/libtorch_cpu.so ${_torch}/lib/libc10.so)
  # DT_RPATH, not RUNPATH: it also serves the libraries that libtorch itself loads.
  target_link_options(lathe_torch INTERFACE
    -Wl,--disable-new-dtags -Wl,-rpath,${_torch}/lib -Wl,-rpath,${LATHE_TORCH_DIR}/nvidia/cu13/lib)

  file(WRITE ${CMAKE_BINARY_DIR}/torch_pch.cc "")
  add_library(lathe_torch_pch STATIC ${CMAKE_BINARY_DIR}/torch_pch.cc)
  target_link_libraries(lathe_torch_pch PUBLIC lathe::torch PRIVATE lathe_options)
  target_precompile_headers(lathe_torch_pch PRIVATE
    <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/csrc/autograd/generated/variable_factories.h>
    <torch/csrc/distributed/c10d/ProcessGroup.hpp>)
endif()

if(LATHE_BUILD_CUDA)
  set(LATHE_TORCH_CUDA_DIR ${LATHE_CACHE_DIR}/deps/libtorch-2.11.0-cuda CACHE PATH "Unpacked CUDA part of libtorch")
  set(_cuda ${LATHE_TORCH_CUDA_DIR})
  if(NOT EXISTS ${_cuda}/torch/lib/libtorch_cuda.so)
    message(FATAL_ERROR "libtorch's CUDA part: got nothing at ${_cuda}; run scripts/setup --cuda, or set LATHE_BUILD_CUDA=OFF")
  endif()
  add_library(lathe_torch_cuda INTERFACE)
  add_library(lathe::torch_cuda ALIAS lathe_torch_cuda)
  target_include_directories(lathe_torch_cuda SYSTEM INTERFACE ${_cuda}/nvidia/cu13/include ${_cuda}/nvidia/nccl/include)
  # libtorch_cuda.so is needed though no symbol of it is: it registers the kernels of the GPU.
  target_link_options(lathe_torch_cuda INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined
    -Wl,-rpath,${_cuda}/torch/lib -Wl,-rpath,${_cuda}/nvidia/nccl/lib -Wl,-rpath,${_cuda}/nvidia/cu13/lib)
  target_link_libraries(lathe_torch_cuda INTERFACE lathe::torch ${_cuda}/torch/lib/libtorch_cuda.so
    ${_cuda}/torch/lib/libc10_cuda.so ${_cuda}/nvidia/nccl/lib/libnccl.so.2 ${_cuda}/nvidia/cu13/lib/libcudart.so.13
    ${_cuda}/nvidia/cu13/lib/libnvrtc.so.13)
endif()
