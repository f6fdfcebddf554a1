# Sample clusters; their paths are relative to this folder, so they are used in place.
EXTRA_DIST += \
	%D%/kitchen.ini \
	%D%/local3.ini
