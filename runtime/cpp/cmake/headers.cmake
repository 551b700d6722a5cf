# Headers that are not ours: ONNX Runtime's C interface (MIT; the library itself is loaded at run time) and
# nlohmann/json (MIT). Each is taken from <NAME>_INCLUDE_DIR, else from the system, else downloaded: a pinned version
# compared with its hash, or, where only a Debian mirror can be reached, Debian's package as apt verifies it. Sets
# ORT_INCLUDE_DIR and JSON_INCLUDE_DIR, or says what is missing.

set(headers_dir ${CMAKE_CURRENT_BINARY_DIR}/headers)

function(flashvsr_find_header variable header package)
  find_path(${variable} NAMES ${header} PATH_SUFFIXES include onnxruntime include/onnxruntime
    HINTS ${headers_dir}/${package} ${headers_dir}/usr DOC "Folder of ${header}")
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
