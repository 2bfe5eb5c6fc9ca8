"""F3: findings over a lock, a model and the facts of an image; their formats. Sibling of plan."""

from kbuild.offered.called import make_callable

make_callable(__name__, "kbuild.api.auditing:audit")
