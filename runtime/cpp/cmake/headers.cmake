# Headers that are not ours: ONNX Runtime's C interface (MIT; the library itself is loaded at run time) and
# nlohmann/json (MIT). Each is taken from <NAME>_INCLUDE_DIR, else from the system, else downloaded and compared with
# its hash. Sets ORT_INCLUDE_DIR and JSON_INCLUDE_DIR, or says what is missing.

set(headers_dir ${CMAKE_CURRENT_BINARY_DIR}/headers)

function(flashvsr_find_header variable header url hash hint)
  find_path(${variable} NAMES ${header} PATH_SUFFIXES onnxruntime onnxruntime/core/session
    HINTS ${headers_dir}/${variable} DOC "Folder of ${header}")
  if(NOT ${variable} AND FLASHVSR_DOWNLOAD)
    set(file ${headers_dir}/${variable}/${header})
    file(DOWNLOAD ${url} ${file}.part TIMEOUT 60 STATUS status)
    list(GET status 0 code)
    list(GET status 1 why)
    if(code EQUAL 0)
      file(SHA256 ${file}.part found)
      if(NOT found STREQUAL hash)
        message(FATAL_ERROR "${url} has SHA-256 ${found}, expected ${hash}")
      endif()
      file(RENAME ${file}.part ${file})
      set(${variable} ${headers_dir}/${variable} CACHE PATH "Folder of ${header}" FORCE)
    else()
      file(REMOVE ${file}.part)
      message(STATUS "flashvsr: ${header} could not be downloaded: ${why}")
    endif()
  endif()
  if(NOT ${variable})
    message(STATUS "flashvsr: skipped: no ${header}; install ${hint}, or set ${variable}")
  endif()
endfunction()

flashvsr_find_header(ORT_INCLUDE_DIR onnxruntime_c_api.h
  https://raw.githubusercontent.com/microsoft/onnxruntime/v1.21.0/include/onnxruntime/core/session/onnxruntime_c_api.h
  7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882
  libonnxruntime-dev)
flashvsr_find_header(JSON_INCLUDE_DIR nlohmann/json.hpp
  https://raw.githubusercontent.com/nlohmann/json/v3.11.3/single_include/nlohmann/json.hpp
  9bea4c8066ef4a1c206b2be5a36302f8926f7fdc6087af5d20b417d0cf103ea6
  nlohmann-json3-dev)
