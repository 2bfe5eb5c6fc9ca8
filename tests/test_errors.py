import inspect
import pickle

import kbuild.errors
from kbuild.errors import KbuildError, ModelNotFound, UnexpectedError

CLASSES = [c for _, c in inspect.getmembers(kbuild.errors, inspect.isclass) if issubclass(c, KbuildError)]


def test_every_cause_has_its_own_exit_code() -> None:
    codes = [c.exit_code for c in CLASSES if c not in (KbuildError, UnexpectedError)]
    assert len(codes) == len(set(codes)) > 30
    assert all(2 < code < 126 for code in codes)


def test_every_class_says_what_it_is_for() -> None:
    assert [c.__name__ for c in CLASSES if not c.__doc__] == []


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ModelNotFound("no run", hint="look")))
    assert (type(error), error.message, error.hint) == (ModelNotFound, "no run", "look")
