"""Names of what is written back to MLflow."""

from __future__ import annotations

from enum import StrEnum


class Tag(StrEnum):
    """Names of the tags. Images are told by name and digest, all digests as ``sha256:…``; IMAGE_SIZE as ``247 MB``.

    VERIFY is ``passed`` by the tolerance that the model was recorded with, ``tolerated: within …`` where only a wider
    one allows it, ``failed``, or ``answered`` where the model recorded no prediction to compare with;
    VERIFIED_DIGEST says of which image that is true: where IMAGE_DIGEST is an index, one of its images. AUDIT is
    ``clean``, ``findings`` or ``incomplete`` on the day AUDIT_DATE, of the lock with the digest AUDITED_LOCK;
    AUDIT_REPORT is the same for reports that say the same. PUSHED is
    the reference by digest in a registry. REBUILD is ``same``, ``repacked`` (the same content, compressed otherwise) or
    ``differs``, for the image REBUILT_DIGEST. Of registered versions alone, by ``kbuild watch``: NAMED is
    ``name:tag@sha256:…`` of what it pushed, one of each name, between spaces; ERROR why there is none, after so many
    ATTEMPTS, and RETRY the time of the next, or never.
    """

    IMAGE = "kbuild.image"
    IMAGE_DIGEST = "kbuild.image_digest"
    IMAGE_SIZE = "kbuild.image_size"
    PUSHED = "kbuild.pushed"
    MODEL_DIGEST = "kbuild.model_digest"
    LOCK_DIGEST = "kbuild.lock_digest"
    VERIFY = "kbuild.verify"
    VERIFIED_DIGEST = "kbuild.verified_digest"
    REBUILD = "kbuild.rebuild"
    REBUILT_DIGEST = "kbuild.rebuilt_digest"
    AUDIT = "kbuild.audit"
    AUDIT_DATE = "kbuild.audit_date"
    AUDITED_LOCK = "kbuild.audited_lock"
    AUDIT_REPORT = "kbuild.audit_report"
    NAMED = "kbuild.named"
    ERROR = "kbuild.error"
    ATTEMPTS = "kbuild.attempts"
    RETRY = "kbuild.retry"
