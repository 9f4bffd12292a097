"""Asking a running platform for predictions, from any Python program. Imports no torch, no Ray, no server."""

from runtime.client.answers import Description, Prediction
from runtime.client.async_client import AsyncClient
from runtime.client.calls import Label
from runtime.client.client import Client
from runtime.client.errors import (
    BadRequest,
    ContractViolated,
    DeadlineExceeded,
    Forbidden,
    InvalidAnswer,
    NotFound,
    RequestFailed,
    ServerFailed,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from runtime.client.retry import RetryPolicy

__all__ = [
    "AsyncClient",
    "BadRequest",
    "Client",
    "ContractViolated",
    "DeadlineExceeded",
    "Description",
    "Forbidden",
    "InvalidAnswer",
    "Label",
    "NotFound",
    "Prediction",
    "RequestFailed",
    "RetryPolicy",
    "ServerFailed",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
]
