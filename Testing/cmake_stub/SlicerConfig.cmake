# Stands in for a build of 3D Slicer, so that a machine without one can configure and install the extension:
#
#   cmake -S . -B build -DSlicer_DIR=$PWD/Testing/cmake_stub && cmake --install build --prefix package
#
# Only what our CMakeLists.txt call is imitated, and only as far as it decides which files end up where: listed files are
# copied with their subfolders, a listed file that does not exist is an error, a file that is not listed is left out.
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-5.12/qt-scripted-modules")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/CheckExtension.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CheckExtension.cmake")
set(Slicer_FOUND TRUE)
