"""Cohere's own client, `cohere`: its second version at /v2/embed, its first one, which cuts texts into 96s, at /v1/embed."""

import base64
import mimetypes

import cohere
import numpy as np
import pytest


@pytest.fixture(scope="module")
def client(service):
    return cohere.ClientV2(api_key="none", base_url=service.url)


@pytest.fixture(scope="module")
def first(service):
    return cohere.Client(api_key="none", base_url=service.url)


def data_url(picture):
    kind, _ = mimetypes.guess_type(picture)
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def test_texts_in_every_type_at_once(client, service):
    texts = ["a photo of a cat", "a slice of pizza", "a red heart"]
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = client.embed(
        model=service.model, input_type="search_document", texts=texts, embedding_types=types, truncate="END", priority=1
    )
    expected = service.texts(texts)
    embeddings = answer.embeddings
    assert np.array_equal(np.array(embeddings.float_, "f4"), expected)
    assert np.array_equal(np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in embeddings.base64]), expected)
    assert np.array_equal(np.array(embeddings.ubinary, "u1"), np.packbits(expected >= 0, axis=1))
    assert np.array_equal(np.array(embeddings.binary, "i2"), np.packbits(expected >= 0, axis=1).astype("i2") - 128)
    assert np.array_equal(np.array(embeddings.uint8, "i2"), np.array(embeddings.int8, "i2") + 128)
    signed = np.array(embeddings.int8, "f4")
    cosines = (signed / np.linalg.norm(signed, axis=1, keepdims=True) * expected).sum(axis=1)
    assert cosines.min() > 0.999
    assert answer.texts == texts and answer.images == []
    assert answer.response_type == "embeddings_by_type"
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.input_tokens > len(texts) and answer.meta.billed_units.images is None


def test_pictures(client, service):
    urls = [data_url(picture) for picture in service.pictures]
    answer = client.embed(model=service.model, input_type="image", images=urls)
    assert np.array_equal(np.array(answer.embeddings.float_, "f4"), service.images(service.pictures))
    assert answer.meta.billed_units.images == len(urls)
    formats = {".jpg": "jpeg", ".png": "png", ".webp": "webp"}
    assert [image.format for image in answer.images] == [formats[picture.suffix] for picture in service.pictures]
    # The last two are cat_420.jpg and cat_lossy.webp.
    assert [(image.width, image.height, image.bit_depth) for image in answer.images[-2:]] == [(451, 300, 24)] * 2


def test_inputs_mixed_keep_their_order(client, service):
    picture = service.pictures[0]
    inputs = [
        {"content": [{"type": "text", "text": "a dog"}]},
        {"content": [{"type": "image_url", "image_url": {"url": data_url(picture)}}]},
        {"content": [{"type": "text", "text": "a tree"}]},
    ]
    answer = client.embed(model=service.model, input_type="clustering", inputs=inputs, embedding_types=["base64"])
    rows = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in answer.embeddings.base64])
    texts = service.texts(["a dog", "a tree"])
    assert np.array_equal(rows, np.stack([texts[0], service.images([picture])[0], texts[1]]))


def test_output_dimension(client, service):
    answer = client.embed(model=service.model, input_type="search_query", texts=["a cat"], output_dimension=64)
    whole = service.texts(["a cat"])[0, :64].astype("f8")
    assert np.allclose(answer.embeddings.float_[0], whole / np.linalg.norm(whole), atol=1e-6)


def test_the_first_client_cuts_and_joins(first, service):
    texts = [f"a photo of {number} cats" for number in range(200)]
    answer = first.embed(texts=texts, model=service.model, input_type="search_document")
    assert answer.response_type == "embeddings_floats" and answer.texts == texts
    assert np.array_equal(np.array(answer.embeddings, "f4"), service.texts(texts))
    assert answer.meta.billed_units.input_tokens > 200


def test_the_first_client_by_type_and_with_pictures(first, service):
    answer = first.embed(texts=["a", "b"], model=service.model, embedding_types=["ubinary", "float"])
    expected = service.texts(["a", "b"])
    assert np.array_equal(np.array(answer.embeddings.float_, "f4"), expected)
    assert np.array_equal(np.array(answer.embeddings.ubinary, "u1"), np.packbits(expected >= 0, axis=1))
    picture = service.pictures[0]
    answer = first.embed(images=[data_url(picture)], model=service.model, input_type="image")
    assert np.array_equal(np.array(answer.embeddings, "f4"), service.images([picture]))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"truncate": "START"}, cohere.BadRequestError, "END or NONE"),
        ({"texts": []}, cohere.BadRequestError, "exactly one of texts, images and inputs"),
        ({"output_dimension": 1 << 20}, cohere.BadRequestError, "dimensions"),
        ({"model": "embed-v4.0"}, cohere.NotFoundError, "`embed-v4.0` is not served"),
        ({"texts": ["a", "word " * 100], "truncate": "NONE"}, cohere.UnprocessableEntityError, "input 1: "),
    ],
)
def test_errors(client, service, changes, error, says):
    asked = {"model": service.model, "input_type": "search_document", "texts": ["a"]} | changes
    with pytest.raises(error) as raised:
        client.embed(**asked)
    assert list(raised.value.body) == ["message"] and says in raised.value.body["message"]


def test_a_status_without_a_class_of_its_own(client, service):
    with pytest.raises(cohere.core.api_error.ApiError) as raised:
        client.embed(model=service.model, input_type="image", images=["data:image/png;base64,QUJD"])
    assert raised.value.status_code == 415 and "input 0: " in raised.value.body["message"]


def test_a_wrong_key(start):
    locked = start(name="cohere-key", key="secret")
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="wrong", base_url=locked.url).embed(model=locked.model, input_type="image", texts=["a"])
    answer = cohere.ClientV2(api_key="secret", base_url=locked.url).embed(
        model=locked.model, input_type="search_query", texts=["a"]
    )
    assert np.array_equal(np.array(answer.embeddings.float_, "f4"), locked.texts(["a"]))


def test_a_refusal_is_repeated_by_the_client(service):
    texts = ["a photo of a cohere client"]
    client = cohere.ClientV2(api_key="none", base_url=service.busy)
    answer = client.embed(model=service.model, input_type="search_query", texts=texts)
    assert np.array_equal(np.array(answer.embeddings.float_, "f4"), service.texts(texts))


def test_a_refusal_raises_where_it_is_not_repeated(service):
    client = cohere.ClientV2(api_key="none", base_url=service.busy, max_retries=0)
    with pytest.raises(cohere.TooManyRequestsError) as raised:
        client.embed(model=service.model, input_type="search_query", texts=["a cohere client without patience"])
    assert list(raised.value.body) == ["message"]
