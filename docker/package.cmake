# The Debian package: `cpack -G DEB` in a release build makes kmsgate_VERSION_ARCH.deb.
if(NOT EXISTS ${CMAKE_SOURCE_DIR}/docker/debian)
  return()
endif()
set(debian ${CMAKE_SOURCE_DIR}/docker/debian)
install(FILES docker/kmsgate.service DESTINATION /lib/systemd/system COMPONENT deb)
install(FILES docker/etc/gateway.yaml DESTINATION /etc/kmsgate COMPONENT deb)
install(FILES rules/spec.yaml DESTINATION /etc/kmsgate RENAME rules.yaml COMPONENT deb)
install(FILES rules/rollout.yaml rules/README.md rules/schema.json gateway/config.schema.json gateway/CONFIG.md
              docker/DECISIONS.md DESTINATION /usr/share/doc/kmsgate COMPONENT deb)
install(FILES docker/debian/copyright DESTINATION /usr/share/doc/kmsgate COMPONENT deb)
install(PROGRAMS certs/make_certs.sh DESTINATION /usr/share/doc/kmsgate COMPONENT deb)
find_program(GZIP gzip)
if(GZIP)
  add_custom_command(OUTPUT kmsgate.8.gz DEPENDS ${debian}/kmsgate.8
    COMMAND ${GZIP} -9nc ${debian}/kmsgate.8 > kmsgate.8.gz)
  add_custom_target(manual ALL DEPENDS kmsgate.8.gz)
  install(FILES ${CMAKE_BINARY_DIR}/kmsgate.8.gz DESTINATION /usr/share/man/man8 COMPONENT deb)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_NAME kmsgate)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "kmsgate <kmsgate@example.org>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "gate in front of a 3GPP MCX key management server")
set(CPACK_PACKAGE_DESCRIPTION "A reverse proxy that verifies the signed requests of key management clients (3GPP TS
33.180, Annex D), holds them against rules, and signs and encrypts what an older key
management server replies.")
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# libevent: the first build of Debian 12 with the fixes against request smuggling
set(CPACK_DEBIAN_PACKAGE_DEPENDS "passwd, tzdata, libevent-2.1-7 (>= 2.1.12-stable-8)")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "ca-certificates, openssl")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${debian}/conffiles ${debian}/postinst ${debian}/prerm ${debian}/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
