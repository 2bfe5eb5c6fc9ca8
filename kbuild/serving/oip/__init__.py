"""The Open Inference Protocol v2, beside MLflow's: its requests become ones for ``/invocations``.

Protocol: https://github.com/kserve/open-inference-protocol. Content types as MLServer has them
(https://mlserver.readthedocs.io/en/stable/user-guide/content-type.html), binary tensors as Triton has them
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""
