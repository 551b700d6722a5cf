# Library, headers, find_package(flashvsr) and pkg-config.
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/flashvsr)

install(TARGETS flashvsr EXPORT flashvsrTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/flashvsr.h include/flashvsr.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT flashvsrTargets NAMESPACE flashvsr:: DESTINATION ${package_dir})

configure_package_config_file(cmake/flashvsrConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/flashvsrConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/flashvsrConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/flashvsrConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/flashvsrConfigVersion.cmake
  DESTINATION ${package_dir})

file(RELATIVE_PATH FLASHVSR_LIBDIR_TO_INCLUDEDIR ${CMAKE_INSTALL_FULL_LIBDIR} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/flashvsr.pc.in ${CMAKE_CURRENT_BINARY_DIR}/flashvsr.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/flashvsr.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
