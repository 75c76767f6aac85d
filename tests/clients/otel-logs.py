"""Exports twenty log records by OpenTelemetry's own SDK, as protobuf: ten plainly, ten compressed.

usage: otel-logs.py URL    (the token in the environment's TOKEN)
"""

import os
import sys
import time

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource


class Checked(OTLPLogExporter):
    """Counts what the gateway did not take."""

    failed = 0

    def export(self, batch):
        result = super().export(batch)
        Checked.failed += 0 if result.name == "SUCCESS" else 1
        return result


def export(url: str, compression: Compression, first: int) -> None:
    headers = {"authorization": f"Bearer {os.environ['TOKEN']}"}
    provider = LoggerProvider(resource=Resource.create({"service.name": "checkout"}))
    exporter = Checked(endpoint=url, headers=headers, compression=compression, timeout=20)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = provider.get_logger("orders", "1.0")
    for number in range(first, first + 10):
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body="an order was read",
                attributes={
                    "http.request.method": "GET",
                    "url.path": f"/v1/orders/{number}",
                    "http.response.status_code": 200,
                    "duration_ms": 12.5,
                    "enduser.id": "ann",
                    "log.record.uid": f"order-{number}",
                },
            )
        )
    provider.shutdown()


export(sys.argv[1], Compression.NoCompression, 0)
export(sys.argv[1], Compression.Gzip, 10)
sys.exit(f"{Checked.failed} exports failed" if Checked.failed else 0)
