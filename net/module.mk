# All that leaves or enters a process: messages, sockets, keys, hashes, the configuration. Uses common,
# ZeroMQ and libsodium; the lists (*.def) are included by tests, too.
noinst_LIBRARIES += %D%/libnet.a
%C%_libnet_a_SOURCES = \
	%D%/net.h \
	%D%/config.c \
	%D%/config.def \
	%D%/config_table.c \
	%D%/config_table.h \
	%D%/document.c \
	%D%/document_config.c \
	%D%/hash.c \
	%D%/ini.c \
	%D%/keyring.c \
	%D%/keys.c \
	%D%/names.c \
	%D%/socket.c \
	%D%/socket_frame.c \
	%D%/socket_link.c \
	%D%/socket_listen.c \
	%D%/socket_log.c \
	%D%/socket_poll.c \
	%D%/socket_private.h \
	%D%/text.c \
	%D%/text.h \
	%D%/units.c \
	%D%/wire.c \
	%D%/wire.def \
	%D%/zap.c
%C%_libnet_a_CFLAGS = $(AM_CFLAGS) $(ZMQ_CFLAGS) $(SODIUM_CFLAGS)
