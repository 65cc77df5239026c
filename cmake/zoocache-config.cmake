# zoocache for CMake. find_package(zoocache), add_subdirectory() and FetchContent give the same targets:
#
#   zoocache::zoocache   the header, and what it needs: xxHash, LZ4, threads
#   zoocache::lmdb, zoocache::redis, zoocache::tls, zoocache::seal
#                        that, and a part of it: its macro and its libraries, where these are found
#
# One file of the program defines ZOOCACHE_IMPLEMENTATION. The parts are the components of find_package().

include(CMakeFindDependencyMacro)
find_dependency(Threads)

# Installed, the header is in PREFIX/include, and this in PREFIX/lib/cmake/zoocache; else both are in the sources.
find_path(ZOOCACHE_INCLUDE_DIR zoocache.h NO_DEFAULT_PATH
    PATHS "${CMAKE_CURRENT_LIST_DIR}/.." "${CMAKE_CURRENT_LIST_DIR}/../../../include")
find_path(ZOOCACHE_XXHASH_INCLUDE_DIR xxhash.h)
find_path(ZOOCACHE_LZ4_INCLUDE_DIR lz4.h)
find_library(ZOOCACHE_LZ4_LIBRARY lz4)
if(NOT (ZOOCACHE_XXHASH_INCLUDE_DIR AND ZOOCACHE_LZ4_INCLUDE_DIR AND ZOOCACHE_LZ4_LIBRARY))
    set(zoocache_FOUND FALSE)
    set(zoocache_NOT_FOUND_MESSAGE "it needs xxhash.h and LZ4 (Debian: apt install libxxhash-dev liblz4-dev)")
    return()
endif()
if(NOT TARGET zoocache::zoocache)
    add_library(zoocache::zoocache INTERFACE IMPORTED GLOBAL)
    target_include_directories(zoocache::zoocache INTERFACE
        "${ZOOCACHE_INCLUDE_DIR}" "${ZOOCACHE_XXHASH_INCLUDE_DIR}" "${ZOOCACHE_LZ4_INCLUDE_DIR}")
    target_link_libraries(zoocache::zoocache INTERFACE "${ZOOCACHE_LZ4_LIBRARY}" Threads::Threads)
endif()

# A part, with its macro, the header and the libraries that it needs.
function(zoocache_part name definition header)
    find_path(ZOOCACHE_${name}_INCLUDE_DIR ${header})
    set(found ${ZOOCACHE_${name}_INCLUDE_DIR})
    foreach(library IN LISTS ARGN)
        find_library(ZOOCACHE_${library}_LIBRARY ${library})
        list(APPEND found ${ZOOCACHE_${library}_LIBRARY})
        list(APPEND libraries ${ZOOCACHE_${library}_LIBRARY})
    endforeach()
    if(TARGET zoocache::${name} OR found MATCHES NOTFOUND)
        return()
    endif()
    add_library(zoocache::${name} INTERFACE IMPORTED GLOBAL)
    target_compile_definitions(zoocache::${name} INTERFACE ${definition})
    target_include_directories(zoocache::${name} INTERFACE "${ZOOCACHE_${name}_INCLUDE_DIR}")
    target_link_libraries(zoocache::${name} INTERFACE ${libraries} zoocache::zoocache)
endfunction()

zoocache_part(lmdb ZOOCACHE_WITH_LMDB lmdb.h lmdb)
zoocache_part(redis ZOOCACHE_WITH_REDIS hiredis/hiredis.h hiredis)
zoocache_part(tls "ZOOCACHE_WITH_REDIS;ZOOCACHE_WITH_REDIS_TLS" openssl/ssl.h hiredis ssl crypto)
zoocache_part(seal ZOOCACHE_WITH_SEAL openssl/evp.h crypto)

set(zoocache_FOUND TRUE)
foreach(component IN LISTS zoocache_FIND_COMPONENTS)
    if(TARGET zoocache::${component})
        set(zoocache_${component}_FOUND TRUE)
    elseif(zoocache_FIND_REQUIRED_${component})
        set(zoocache_FOUND FALSE)
        set(zoocache_NOT_FOUND_MESSAGE
            "the component ${component} is not known, or its library was not found (README.md, Use it)")
    endif()
endforeach()
