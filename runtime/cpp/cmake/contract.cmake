# Writes flashvsr_contract.hpp from the Python contract, through a tree of links that makes `configs` importable as
# flashvsr_trt.configs without installing anything.
find_package(Python3 3.11 REQUIRED COMPONENTS Interpreter)

set(FLASHVSR_CONTRACT_HEADER ${CMAKE_CURRENT_BINARY_DIR}/generated/flashvsr_contract.hpp)
set(python_tree ${CMAKE_CURRENT_BINARY_DIR}/python)
file(MAKE_DIRECTORY ${python_tree}/flashvsr_trt)
file(CREATE_LINK ${FLASHVSR_ROOT}/configs ${python_tree}/flashvsr_trt/configs SYMBOLIC)
file(GLOB contract_sources CONFIGURE_DEPENDS ${FLASHVSR_ROOT}/configs/*.py)

add_custom_command(
  OUTPUT ${FLASHVSR_CONTRACT_HEADER}
  COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${python_tree} PYTHONDONTWRITEBYTECODE=1
    ${Python3_EXECUTABLE} -m flashvsr_trt.configs.cpp_header ${FLASHVSR_CONTRACT_HEADER}
  COMMAND ${CMAKE_COMMAND} -E touch ${FLASHVSR_CONTRACT_HEADER}
  DEPENDS ${contract_sources}
  VERBATIM)
