# The demo model, which the tests and the quickstart use in place.
EXTRA_DIST += %D%/README.md %D%/shoal-demo-7m-q8_0.gguf
