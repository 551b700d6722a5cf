# Headers that are not ours: ONNX Runtime's C interface (MIT; the library itself is loaded at run time) and
# nlohmann/json (MIT), without which nothing is built, and TensorRT's (Apache-2.0; likewise loaded at run time), without
# which the library runs bundles only. Each is taken from <NAME>_INCLUDE_DIR, else from the system, else downloaded: a
# pinned version compared with its hash, or, where only a Debian mirror can be reached, Debian's package as apt verifies
# it. Sets ORT_INCLUDE_DIR, JSON_INCLUDE_DIR and TENSORRT_INCLUDE_DIR, or says what is missing.

set(headers_dir ${CMAKE_CURRENT_BINARY_DIR}/headers)

function(flashvsr_find_header variable header package)
  find_path(${variable} NAMES ${header} PATH_SUFFIXES include onnxruntime include/onnxruntime
    HINTS ENV ${variable} ${headers_dir}/${package} ${headers_dir}/usr DOC "Folder of ${header}")
endfunction()

function(flashvsr_download_header header package url hash)
  set(file ${headers_dir}/${package}/${header})
  file(DOWNLOAD ${url} ${file}.part TIMEOUT 60 STATUS status)
  list(GET status 0 code)
  if(NOT code EQUAL 0)
    file(REMOVE ${file}.part)
    list(GET status 1 why)
    message(STATUS "flashvsr: ${header} could not be downloaded: ${why}")
    return()
  endif()
  file(SHA256 ${file}.part found)
  if(NOT found STREQUAL hash)
    message(FATAL_ERROR "${url} has SHA-256 ${found}, expected ${hash}")
  endif()
  file(RENAME ${file}.part ${file})
endfunction()

function(flashvsr_header variable header package url hash)
  flashvsr_find_header(${variable} ${header} ${package})
  if(NOT ${variable} AND FLASHVSR_DOWNLOAD)
    flashvsr_download_header(${header} ${package} ${url} ${hash})
    flashvsr_find_header(${variable} ${header} ${package})
  endif()
  find_program(APT_GET apt-get)
  if(NOT ${variable} AND FLASHVSR_DOWNLOAD AND APT_GET)
    execute_process(COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/cmake/debian_headers.sh ${headers_dir} ${package}
      TIMEOUT 120 OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE code)
    if(NOT code EQUAL 0)
      message(STATUS "flashvsr: Debian's ${package} could not be had: ${said}")
    endif()
    flashvsr_find_header(${variable} ${header} ${package})
  endif()
  if(NOT ${variable})
    message(STATUS "flashvsr: skipped: no ${header}; install ${package}, or set ${variable}")
  endif()
endfunction()

flashvsr_header(ORT_INCLUDE_DIR onnxruntime_c_api.h libonnxruntime-dev
  https://raw.githubusercontent.com/microsoft/onnxruntime/v1.21.0/include/onnxruntime/core/session/onnxruntime_c_api.h
  7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882)
flashvsr_header(JSON_INCLUDE_DIR nlohmann/json.hpp nlohmann-json3-dev
  https://raw.githubusercontent.com/nlohmann/json/v3.11.3/single_include/nlohmann/json.hpp
  9bea4c8066ef4a1c206b2be5a36302f8926f7fdc6087af5d20b417d0cf103ea6)

# Header and hash, of TensorRT 11.1: the layout of its classes is also TensorRT-RTX's from 1.7 on.
set(tensorrt_url https://raw.githubusercontent.com/NVIDIA/TensorRT/82d1dca801c8318a5605399d5240780d0679e4e1/include)
set(tensorrt_headers
  NvInferRuntime.h e78c2d49516a66f726864904386534f63eacf0ad75a6dfdde7dfa70adf39f797
  NvInferImpl.h c6acddec7e286c18e9cd08511553c2015f99c487ca25717790e54e30c18ade79
  NvInferLegacyDims.h 3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
  NvInferPluginBase.h 759f354754e64bf4d1e68d7df796c155c46f8a27541bf1912ba13e79a5a26fc2
  NvInferRuntimeBase.h ec38759dbf8a5538c4cd30890f1764658bc2dcec87e95ac18148e476cbe1671b
  NvInferRuntimeCommon.h eff4c0251cb4813bbc7fe34c6b28fdb6c08734c27ae53b07974d2557bf1431be
  NvInferRuntimePlugin.h d4db4236da9c03e543949247a75478b5ce68fc84eb30cd15b35081b94c8d8391
  NvInferVersion.h 8648df4851fb2df1a15d7dfdae6454428c4b119055f65f6a98de8ff806977b2e)
flashvsr_find_header(TENSORRT_INCLUDE_DIR NvInferRuntime.h tensorrt)
if(NOT TENSORRT_INCLUDE_DIR AND FLASHVSR_DOWNLOAD)
  set(files ${tensorrt_headers})
  while(files)
    list(GET files 0 header)
    list(GET files 1 hash)
    list(REMOVE_AT files 0 1)
    flashvsr_download_header(${header} tensorrt ${tensorrt_url}/${header} ${hash})
    if(NOT EXISTS ${headers_dir}/tensorrt/${header})
      file(REMOVE_RECURSE ${headers_dir}/tensorrt) # all or none
      break()
    endif()
  endwhile()
  flashvsr_find_header(TENSORRT_INCLUDE_DIR NvInferRuntime.h tensorrt)
endif()
if(NOT TENSORRT_INCLUDE_DIR)
  message(STATUS "flashvsr: left out: TensorRT, for there is no NvInferRuntime.h; set TENSORRT_INCLUDE_DIR to have it")
endif()
