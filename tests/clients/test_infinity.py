"""infinity's own client, `infinity-client`: /embeddings, /models and /health, by its functions and by its vision client."""

import base64
from http import HTTPStatus

import infinity_client
import numpy as np
import PIL.Image
import pytest
import requests
from infinity_client.api.default import embeddings, health, models
from infinity_client.errors import UnexpectedStatus
from infinity_client.models import (
    OpenAIEmbeddingInputImage,
    OpenAIEmbeddingInputImageModality,
    OpenAIEmbeddingInputText,
    OpenAIEmbeddingInputTextModality,
)
from infinity_client.vision_client import InfinityVisionAPI


@pytest.fixture(scope="module")
def client(service):
    return infinity_client.Client(base_url=service.url, raise_on_unexpected_status=True)


def rows(answer):
    assert [entry.index for entry in answer.data] == list(range(len(answer.data)))
    return np.array([entry.embedding for entry in answer.data], "f4")


def data_url(picture):
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def texts(*strings, **options):
    return OpenAIEmbeddingInputText(input_=list(strings), modality=OpenAIEmbeddingInputTextModality.TEXT, **options)


def test_texts_with_nothing_set(client, service):
    # Without a model it names one that no server has, and asks for 0 dimensions.
    answer = embeddings.sync(client=client, body=texts("a cat", "a dog"))
    assert np.array_equal(rows(answer), service.texts(["a cat", "a dog"]))
    assert answer.model == service.model and answer.id and answer.created > 1_700_000_000
    assert answer.usage.total_tokens > 2


def test_texts_that_look_like_pictures_are_texts(client, service):
    answer = embeddings.sync(client=client, body=texts("data:image/png;base64,", model=service.model))
    assert np.array_equal(rows(answer), service.texts(["data:image/png;base64,"]))


def test_pictures(client, service):
    body = OpenAIEmbeddingInputImage(
        input_=[data_url(picture) for picture in service.pictures],
        modality=OpenAIEmbeddingInputImageModality.IMAGE,
        model=service.model,
    )
    assert np.array_equal(rows(embeddings.sync(client=client, body=body)), service.images(service.pictures))


def test_dimensions(client, service):
    answer = embeddings.sync(client=client, body=texts("a cat", dimensions=64))
    assert rows(answer).shape == (1, 64)


def test_models_and_health(client, service):
    answer = models.sync(client=client)
    assert service.model in [model.id for model in answer.data]
    for model in answer.data:
        assert model.owned_by == "infinity" and model.capabilities == ["embed", "image_embed"]
        assert {"queue_fraction", "queue_absolute", "results_pending", "batch_size"} <= set(model.stats.additional_keys)
    assert health.sync(client=client)["unix"] > 1.7e9


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (texts("a", model="michaelfeil/bge-small-en-v1.5"), 404, "is not served"),
        (texts("a", dimensions=1 << 20), 400, "dimensions"),
        (texts(), 400, "no inputs"),
    ],
)
def test_errors(client, body, status, says):
    with pytest.raises(UnexpectedStatus) as raised:
        embeddings.sync(client=client, body=body)
    assert raised.value.status_code == status and says.encode() in raised.value.content


def test_an_error_that_its_functions_read(client, service):
    # Of a 422 they make an object, and of it they read no more than a list of FastAPI's.
    half = base64.b64encode(service.pictures[0].read_bytes()[:200]).decode()
    body = OpenAIEmbeddingInputImage(
        input_=[f"data:image/png;base64,{half}"], modality=OpenAIEmbeddingInputImageModality.IMAGE
    )
    answer = embeddings.sync_detailed(client=client, body=body)
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert answer.parsed.additional_properties["error"]["param"] == "input[0]"


@pytest.mark.parametrize("kind", ["base64", "float"])
def test_the_vision_client(service, kind, tmp_path):
    client = InfinityVisionAPI(url=service.url, format=kind, model=service.model)
    assert client.hidden_dim == service.dim and client.health()
    found, tokens = client.embed(service.model, ["a cat", "a dog"]).result()
    assert np.array_equal(np.vstack(found).astype("f4"), service.texts(["a cat", "a dog"])) and tokens > 2
    with PIL.Image.open(service.pictures[0]) as picture:
        picture = picture.convert("RGB")
    # What the client makes of a picture before it sends it.
    sent = tmp_path / "sent.jpg"
    picture.save(sent, format="JPEG")
    found, _ = client.image_embed(service.model, [picture]).result()
    assert np.array_equal(np.vstack(found).astype("f4"), service.images([sent]))


def test_the_vision_client_raises_what_requests_raises(service):
    client = InfinityVisionAPI(url=service.url, model=service.model)
    with pytest.raises(requests.HTTPError) as raised:
        client.embed("another", ["a"]).result()
    assert raised.value.response.status_code == 404


def test_a_refusal_is_not_repeated_and_raises(service):
    # Its functions never repeat a request, and its vision client only what is no POST.
    client = infinity_client.Client(base_url=service.busy, raise_on_unexpected_status=True)
    with pytest.raises(UnexpectedStatus) as raised:
        embeddings.sync(client=client, body=texts("an infinity"))
    assert raised.value.status_code == 429
    assert np.array_equal(rows(embeddings.sync(client=client, body=texts("an infinity"))), service.texts(["an infinity"]))
