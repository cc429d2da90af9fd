# What Slicer's packaging and the Extensions Index read from the root CMakeLists.txt must be there.
foreach(_name IN ITEMS HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${_name}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${_name} is not set in the root CMakeLists.txt")
  endif()
endforeach()
