# Sample clusters; their paths are relative to this folder, so they are used in place.
EXTRA_DIST += \
	%D%/kitchen.ini \
	%D%/lab.ini \
	%D%/local3.ini \
	%D%/uneven6.ini \
	%D%/profiles/jetson-nano.ini \
	%D%/profiles/old-laptop.ini \
	%D%/profiles/orin-nano.ini \
	%D%/profiles/pi3.ini \
	%D%/profiles/pi4.ini \
	%D%/profiles/pi5.ini \
	%D%/profiles/uneven6.ini
