"""OpenAI's own client, `openai`, at /v1: texts, and pictures as data URLs, which are strings as its types want them."""

import base64
import mimetypes

import numpy as np
import openai
import pytest


@pytest.fixture(scope="module")
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        yield client


def data_url(picture):
    kind, _ = mimetypes.guess_type(picture)
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def rows(answer):
    assert [entry.index for entry in answer.data] == list(range(len(answer.data)))
    return np.array([entry.embedding for entry in answer.data], "f4")


def test_texts(client, service):
    texts = ["a photo of a cat", "a slice of pizza", "a red heart", "a photo of a cat"]
    answer = client.embeddings.create(model=service.model, input=texts)
    assert np.array_equal(rows(answer), service.texts(texts))
    assert answer.model == service.model and answer.object == "list"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)


def test_one_text(client, service):
    answer = client.embeddings.create(model=service.model, input="a photo of a cat")
    assert np.array_equal(rows(answer), service.texts(["a photo of a cat"]))


def test_pictures_as_data_urls(client, service):
    answer = client.embeddings.create(model=service.model, input=[data_url(picture) for picture in service.pictures])
    assert np.array_equal(rows(answer), service.images(service.pictures))


def test_one_picture(client, service):
    answer = client.embeddings.create(model=service.model, input=data_url(service.pictures[0]))
    assert np.array_equal(rows(answer), service.images(service.pictures[:1]))


def test_texts_and_pictures_mixed_keep_their_order(client, service):
    first, second = service.pictures[:2]
    answer = client.embeddings.create(
        model=service.model, input=["a dog", data_url(first), "a snowman", data_url(second), "a tree"]
    )
    expected = np.empty((5, service.dim), "f4")
    expected[[0, 2, 4]] = service.texts(["a dog", "a snowman", "a tree"])
    expected[[1, 3]] = service.images([first, second])
    assert np.array_equal(rows(answer), expected)


def test_every_encoding(client, service):
    expected = service.texts(["a dog"])
    unset = client.embeddings.create(model=service.model, input="a dog")
    floats = client.embeddings.create(model=service.model, input="a dog", encoding_format="float")
    assert np.array_equal(rows(unset), expected) and np.array_equal(rows(floats), expected)
    # Asked for by name, the client hands the string through.
    packed = client.embeddings.create(model=service.model, input="a dog", encoding_format="base64").data[0].embedding
    assert isinstance(packed, str) and np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), expected[0])


def test_dimensions_cut_and_normalise_again(client, service):
    cut = rows(client.embeddings.create(model=service.model, input="a dog", dimensions=32))
    assert cut.shape == (1, 32)
    head = service.texts(["a dog"])[:, :32]
    assert np.allclose(cut, head / np.linalg.norm(head), atol=1e-6)


def test_every_name_of_the_model(client, service):
    for name in [service.model, "clip", "ViT-B-32__openai", "default/not-specified"]:
        assert client.embeddings.create(model=name, input="a dog").model == service.model


def test_the_models_are_listed(client, service):
    assert [model.id for model in client.models.list()][0] == service.model


def test_a_model_is_retrieved_by_its_names(client, service):
    for name in (service.model, "clip"):
        model = client.models.retrieve(name)
        assert model.id == name and model.object == "model" and model.owned_by == "clipserve"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt/another")
    assert raised.value.code == "model_not_found"


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="text-embedding-3-small", input="a dog")
    assert error.value.code == "model_not_found"
    assert "text-embedding-3-small" in error.value.message


def test_token_ids_are_refused_with_the_way_out(client, service):
    for ids in ([320, 1125], [[320, 1125], [539]]):
        with pytest.raises(openai.BadRequestError, match="token ids.*send the text itself"):
            client.embeddings.create(model=service.model, input=ids)


def test_a_bad_request_names_its_item(client, service):
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=service.model, input=["a dog", "data:image/png;base64,!!!!"])
    assert error.value.param == "input[1]" and error.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model=service.model, input="a dog", dimensions=service.dim + 1)


def test_a_broken_picture_is_unprocessable_and_named(client, service):
    broken = base64.b64encode(service.pictures[0].read_bytes()[:500]).decode()
    with pytest.raises(openai.UnprocessableEntityError) as error:
        client.embeddings.create(model=service.model, input=["a dog", f"data:image/png;base64,{broken}"])
    assert error.value.param == "input[1]" and error.value.code == "invalid_image"


def test_a_wrong_key_is_an_authentication_error(start):
    keyed = start(name="keyed", key="s3cret")
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="s3cret") as client:
        assert np.array_equal(rows(client.embeddings.create(model=keyed.model, input="a")), keyed.texts(["a"]))
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as error:
            client.embeddings.create(model=keyed.model, input="a")
    assert error.value.code == "invalid_api_key"


def test_a_refusal_is_repeated_and_succeeds(service):
    before = len(service.refused), len(service.relayed)
    with openai.OpenAI(base_url=f"{service.busy}/v1", api_key="none") as client:
        answer = client.embeddings.create(model=service.model, input=["a busy dog"])
    assert np.array_equal(rows(answer), service.texts(["a busy dog"]))
    assert service.refused[before[0] :] == service.relayed[before[1] :] == ["/v1/embeddings"]


def test_a_refusal_that_is_not_repeated_is_a_rate_limit_error(service):
    with openai.OpenAI(base_url=f"{service.busy}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as error:
            client.embeddings.create(model=service.model, input=["a dog that is not repeated"])
    headers = error.value.response.headers
    assert error.value.code == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 60 and 1000 <= int(headers["retry-after-ms"]) <= 60_000
    assert headers["x-should-retry"] == "true"
