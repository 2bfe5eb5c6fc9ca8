"""F6: claims about a built image, checked on the image."""

from kbuild.offered.called import make_callable

make_callable(__name__, "kbuild.api.verifying:verify")
