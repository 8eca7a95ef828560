"""Spans to X-Ray's own endpoint for OpenTelemetry, signed as AWS wants it, with what Lambda's runtime has anyway."""

import logging
from collections.abc import Sequence
from typing import Final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.session import Session
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger("answerback.aws")

TIMEOUT_S: Final = 2.0
"""An invocation waits for its spans at its end."""


def endpoint_in(region: str) -> str:
    """Where X-Ray takes spans."""
    return f"https://xray.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}/v1/traces"


class XRayExporter(SpanExporter):
    """Exports to the region of `session`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._region = session.get_config_variable("region")
        self._endpoint = endpoint_in(self._region)
        self._http = URLLib3Session(timeout=TIMEOUT_S)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        headers = {"Content-Type": "application/x-protobuf"}
        request = AWSRequest("POST", self._endpoint, headers, encode_spans(spans).SerializeToString())
        credentials = self._session.get_credentials().get_frozen_credentials()
        SigV4Auth(credentials, "xray", self._region).add_auth(request)
        try:
            status = self._http.send(request.prepare()).status_code
        except BotoCoreError as exc:
            log.warning("%d spans could not be exported: %s", len(spans), type(exc).__name__)
            return SpanExportResult.FAILURE
        if status >= 300:
            log.warning("%d spans were refused with %d", len(spans), status)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS
