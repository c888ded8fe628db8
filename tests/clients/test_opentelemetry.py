"""OpenTelemetry's own packages: its SDK begins the trace that a request belongs to, and its protocol's types read what the service sends."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

PROPAGATOR = TraceContextTextMapPropagator()


class Collector:
    """Takes what is exported to it over HTTP."""

    def __init__(self):
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response_only(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def resources(self) -> list[dict[str, str]]:
        """The attributes of each resource."""
        resources = (traces.resource for request in self.requests for traces in request.resource_spans)
        return [attributes(resource) for resource in resources]

    def spans(self) -> list[Span]:
        """All spans."""
        everything = (traces for request in self.requests for traces in request.resource_spans)
        return [span for traces in everything for scope in traces.scope_spans for span in scope.spans]

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


def attributes(of):
    return {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in of.attributes}


def ask(service, sampler, texts):
    """Sends texts within a span of a client; the contexts of that span and of the service's."""
    tracer = TracerProvider(sampler=sampler).get_tracer("client")
    with tracer.start_as_current_span("client") as span:
        headers = {}
        PROPAGATOR.inject(headers)
        answer = requests.post(f"{service.url}/embed/text", json={"texts": texts}, headers=headers)
    answer.raise_for_status()
    theirs = PROPAGATOR.extract({"traceparent": answer.headers["traceresponse"]})
    return span.get_span_context(), trace.get_current_span(theirs).get_span_context()


def test_a_request_is_in_the_trace_of_its_client_and_its_run_is_linked_to_it(start, collector):
    service = start(f"telemetry.otlp_endpoint={collector.url}", "telemetry.otlp_sample_ratio=0", name="traced")
    ours, theirs = ask(service, ALWAYS_ON, ["a photo of a cat", "a slice of pizza"])
    unsampled, unsent = ask(service, ALWAYS_OFF, ["a red heart"])
    # What waits is sent at the end.
    service.stop()
    assert (theirs.trace_id, theirs.trace_flags.sampled) == (ours.trace_id, True)
    assert (unsent.trace_id, unsent.trace_flags.sampled) == (unsampled.trace_id, False)
    assert [resource["service.name"] for resource in collector.resources()] == ["clipserve"] * len(collector.requests)
    spans = collector.spans()
    [request] = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    runs = [span for span in spans if span.kind == Span.SPAN_KIND_INTERNAL]
    assert len(spans) == 1 + len(runs)
    assert request.name == "POST /embed/text"
    assert request.trace_id == ours.trace_id.to_bytes(16, "big")
    assert request.parent_span_id == ours.span_id.to_bytes(8, "big")
    assert request.span_id == theirs.span_id.to_bytes(8, "big")
    of_request = attributes(request)
    assert of_request["http.route"] == "/embed/text"
    assert of_request["http.response.status_code"] == 200
    assert sum(attributes(run)["clipserve.batch.size"] for run in runs) == 2
    for run in runs:
        assert attributes(run)["clipserve.modality"] == "text"
        assert [(link.trace_id, link.span_id) for link in run.links] == [(request.trace_id, request.span_id)]
        assert request.start_time_unix_nano <= run.start_time_unix_nano <= run.end_time_unix_nano <= request.end_time_unix_nano
