"""Triton's client (`tritonclient[http]`) against the Open Inference Protocol: values, forms, errors."""

import base64
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

TEXTS = ["a smiling face", "ein Übungssatz mit 🐈", ""]


@pytest.fixture
def client(service):
    with triton.InferenceServerClient(urlsplit(service.url).netloc) as client:
        yield client


def strings(name, values, shape=None, binary=True):
    array = np.array(values, dtype=np.object_).reshape(shape or [len(values)])
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    return tensor.set_data_from_numpy(array, binary_data=binary)


def numbers(name, array, binary=True):
    tensor = triton.InferInput(name, list(array.shape), {"f": "FP32", "i": "INT64"}[array.dtype.kind])
    return tensor.set_data_from_numpy(array, binary_data=binary)


def texts(values=TEXTS, **form):
    return strings("texts", [text.encode() for text in values], **form)


def images(service, **form):
    return strings("images", [picture.read_bytes() for picture in service.pictures], **form)


def test_the_server_and_the_model_are_there(service, client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(service.model) and client.is_model_ready(service.model, "1")
    assert not client.is_model_ready(service.model, "2") and not client.is_model_ready("another")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(service.model)
    assert metadata["name"] == service.model and metadata["versions"] == ["1"]
    outputs = {output["name"]: output for output in metadata["outputs"]}
    assert outputs["image_embeds"] == {"name": "image_embeds", "datatype": "FP32", "shape": [-1, service.dim]}
    assert {"images", "texts", "input_ids", "attention_mask", "pixel_values"} <= {tensor["name"] for tensor in metadata["inputs"]}


def test_the_configuration_and_the_index_are_read(service, client):
    config = client.get_model_config(service.model)
    assert config["name"] == service.model and config["platform"] == "onnxruntime_onnx" and config["max_batch_size"] == 0
    assert config == client.get_model_config(service.model, "1")
    outputs = {output["name"]: output for output in config["output"]}
    assert outputs["image_embeds"] == {"name": "image_embeds", "data_type": "TYPE_FP32", "dims": [-1, service.dim]}
    inputs = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
    assert inputs["texts"] == "TYPE_STRING" and inputs["input_ids"] == "TYPE_INT64"
    assert client.get_model_repository_index() == [{"name": service.model, "version": "1", "state": "READY"}]
    with pytest.raises(InferenceServerException) as raised:
        client.get_model_config("another")
    assert raised.value.status() == "404"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_texts_are_embedded_to_the_bit(service, client, binary_in, binary_out):
    outputs = [triton.InferRequestedOutput("text_embeds", binary_data=binary_out)]
    result = client.infer(service.model, [texts(binary=binary_in)], outputs=outputs, request_id="a")
    assert result.get_response()["id"] == "a"
    np.testing.assert_array_equal(result.as_numpy("text_embeds"), service.texts(TEXTS))


@pytest.mark.parametrize("binary_out", [True, False])
def test_pictures_are_embedded_to_the_bit(service, client, binary_out):
    expected = service.images(service.pictures)
    outputs = [triton.InferRequestedOutput("image_embeds", binary_data=binary_out)]
    in_json = strings("images", [base64.b64encode(picture.read_bytes()) for picture in service.pictures], binary=False)
    for tensor in (images(service), images(service, shape=[-1, 1]), in_json):
        result = client.infer(service.model, [tensor], outputs=outputs)
        np.testing.assert_array_equal(result.as_numpy("image_embeds"), expected)


def test_both_sides_give_both_embeddings_and_logits_when_asked(service, client):
    result = client.infer(service.model, [images(service), texts()], model_version="1")
    np.testing.assert_array_equal(result.as_numpy("image_embeds"), service.images(service.pictures))
    np.testing.assert_array_equal(result.as_numpy("text_embeds"), service.texts(TEXTS))
    names = ["logits_per_image", "logits_per_text", "vision_model_output.last_hidden_state"]
    outputs = [triton.InferRequestedOutput(name) for name in names]
    asked = client.infer(service.model, [images(service), texts()], outputs=outputs)
    logits = asked.as_numpy("logits_per_image")
    assert logits.shape == (len(service.pictures), len(TEXTS))
    np.testing.assert_array_equal(logits.T, asked.as_numpy("logits_per_text"))
    cosines = result.as_numpy("image_embeds") @ result.as_numpy("text_embeds").T
    scale = logits.ravel()[0] / cosines.ravel()[0]
    np.testing.assert_allclose(logits, cosines * scale, rtol=1e-3, atol=1e-3)
    states = asked.as_numpy("vision_model_output.last_hidden_state")
    assert states.ndim == 3 and states.shape[0] == len(service.pictures)


@pytest.mark.parametrize("binary_in", [True, False])
def test_pixel_values_are_taken(service, client, binary_in):
    (shape,) = [
        tensor["shape"] for tensor in client.get_model_metadata(service.model)["inputs"] if tensor["name"] == "pixel_values"
    ]
    values = np.random.default_rng(0).normal(size=[2, *shape[1:]]).astype(np.float32)
    names = ["image_embeds", "pooler_output"]
    outputs = [triton.InferRequestedOutput(name) for name in names]
    result = client.infer(service.model, [numbers("pixel_values", values, binary=binary_in)], outputs=outputs)
    embeds = result.as_numpy("image_embeds")
    assert embeds.shape == (2, service.dim)
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
    again = client.infer(service.model, [numbers("pixel_values", values[1:])]).as_numpy("image_embeds")
    np.testing.assert_allclose(again[0], embeds[1], atol=1e-5)
    assert result.as_numpy("pooler_output").shape[0] == 2, "under the name that was asked for"


def test_many_at_once_are_answered(service, client):
    expected = service.texts(TEXTS)
    with triton.InferenceServerClient(urlsplit(service.url).netloc, concurrency=4) as many:
        requests = [many.async_infer(service.model, [texts()]) for _ in range(8)]
        for request in requests:
            np.testing.assert_array_equal(request.get_result().as_numpy("text_embeds"), expected)


@pytest.mark.parametrize(
    ("tensor", "status", "expected"),
    [
        (lambda: strings("images", [b"no picture"]), "415", "images[0]"),
        (lambda: strings("prompts", [b"a"]), "400", "prompts is no input"),
        (lambda: strings("texts", [b"\xff"]), "400", "texts[0]: the text is not UTF-8"),
        (lambda: strings("texts", [b"a"] * 4, shape=[2, 2]), "400", "expected [n] or [n, 1]"),
        (lambda: numbers("texts", np.zeros((1, 2), np.float32)), "400", 'expected "BYTES"'),
        (lambda: numbers("input_ids", np.full((1, 2), 10**9)), "422", "input_ids[0]"),
    ],
)
def test_errors_are_the_clients_own(service, client, tensor, status, expected):
    with pytest.raises(InferenceServerException) as raised:
        client.infer(service.model, [tensor()])
    assert raised.value.status() == status and expected in raised.value.message()


def test_another_model_and_another_version_are_not_found(service, client):
    for model, version in [("another", ""), (service.model, "2")]:
        with pytest.raises(InferenceServerException) as raised:
            client.infer(model, [texts()], model_version=version)
        assert raised.value.status() == "404"
