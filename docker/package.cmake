# What is installed beside the program, below the prefix; and the Debian package: `cpack -G DEB` in a release build makes
# kmsgate_VERSION_ARCH.deb, with what stands elsewhere whatever the prefix: the unit, and /etc/kmsgate, where the program
# looks for its configuration.
if(NOT EXISTS ${CMAKE_SOURCE_DIR}/docker/debian)
  return()
endif()
set(debian ${CMAKE_SOURCE_DIR}/docker/debian)
set(docs ${CMAKE_INSTALL_DATADIR}/doc/kmsgate)
set(zsh ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions) # Debian's; zsh's own is site-functions
install(FILES docker/kmsgate.service DESTINATION /lib/systemd/system COMPONENT deb EXCLUDE_FROM_ALL)
install(FILES docker/etc/gateway.yaml DESTINATION /etc/kmsgate COMPONENT deb EXCLUDE_FROM_ALL)
install(FILES rules/spec.yaml DESTINATION /etc/kmsgate RENAME rules.yaml COMPONENT deb EXCLUDE_FROM_ALL)
install(FILES rules/rollout.yaml rules/schema.json gateway/config.schema.json DESTINATION ${docs})
# The pages under the names by which the program's messages, and the pages themselves, refer to them.
install(FILES rules/README.md DESTINATION ${docs}/rules)
install(FILES gateway/CONFIG.md DESTINATION ${docs}/gateway)
install(FILES docker/README.md docker/DECISIONS.md docker/ADMIN-API.md docker/decision.schema.json DESTINATION ${docs}/docker)
install(FILES certs/README.md DESTINATION ${docs}/certs)
install(FILES docker/debian/copyright DESTINATION ${docs})
install(PROGRAMS certs/make_certs.sh DESTINATION ${docs})
# Manual pages and completions come from the program's own table of commands.
if(NOT CMAKE_CROSSCOMPILING)
  set(made ${CMAKE_BINARY_DIR}/manual)
  add_custom_command(OUTPUT ${made}/completion.bash DEPENDS kmsgate ${debian}/manual.sh VERBATIM
    COMMAND ${debian}/manual.sh $<TARGET_FILE:kmsgate> ${made})
  add_custom_target(manual ALL DEPENDS ${made}/completion.bash)
  install(DIRECTORY ${made}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
  install(FILES ${made}/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME kmsgate)
  install(FILES ${made}/completion.zsh DESTINATION ${zsh} RENAME _kmsgate)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_INSTALL_CMAKE_PROJECTS "${CMAKE_BINARY_DIR};kmsgate;ALL;/" "${CMAKE_BINARY_DIR};kmsgate;deb;/")
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
