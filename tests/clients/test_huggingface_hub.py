"""huggingface_hub's InferenceClient against the routes of text-embeddings-inference.

What the client needs set: the base URL. With that alone it posts everything to `/`; with a route behind it, to that route.
"""

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

TEXTS = ["a photo of a cat", "zwei Hunde im Schnee", "", "🐈"]


@pytest.fixture(params=["", "/", "/embed"])
def client(request, service):
    return InferenceClient(service.url + request.param)


def test_embeddings_are_those_of_the_native_route(client, service):
    embeddings = client.feature_extraction(TEXTS)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, service.texts(TEXTS))


def test_one_text_is_a_list_of_one(client, service):
    np.testing.assert_array_equal(client.feature_extraction(TEXTS[0]), service.texts(TEXTS[:1]))


def test_options_are_honoured(client, service):
    options = {"normalize": True, "truncate": True, "truncation_direction": "right", "encoding_format": "float"}
    np.testing.assert_array_equal(client.feature_extraction(TEXTS, **options), service.texts(TEXTS))
    cut = client.feature_extraction(TEXTS, dimensions=8)
    assert cut.shape == (len(TEXTS), 8)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-5)
    raw = client.feature_extraction(TEXTS, normalize=False)
    scaled = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, service.texts(TEXTS), atol=1e-6)


def test_a_long_text_is_cut_or_refused(client):
    long = "word " * 500
    assert client.feature_extraction(long).shape[0] == 1
    with pytest.raises(HfHubHTTPError) as raised:
        client.feature_extraction(["a", long], truncate=False)
    assert raised.value.response.status_code == 422
    assert "input 1: the text has" in raised.value.response.json()["error"]


@pytest.mark.parametrize("path", ["", "/similarity"])
def test_similarity_is_the_cosine(path, service):
    scores = InferenceClient(service.url + path).sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    rows = service.texts(TEXTS)
    np.testing.assert_allclose(scores, rows @ rows[0], atol=1e-6)


@pytest.mark.parametrize(
    "options, status, kind",
    [
        ({"text": []}, 400, "Empty"),
        ({"text": [[320, 2368]]}, 422, "Validation"),
        ({"text": "a", "truncation_direction": "left"}, 422, "Validation"),
        ({"text": "a", "prompt_name": "query"}, 422, "Validation"),
        ({"text": "a", "dimensions": 100_000}, 422, "Validation"),
    ],
)
def test_errors_are_the_clients_own(client, options, status, kind):
    with pytest.raises(HfHubHTTPError) as raised:
        client.feature_extraction(**options)
    response = raised.value.response
    assert (response.status_code, response.json()["error_type"]) == (status, kind)
    assert response.json()["error"] in str(raised.value)


def test_what_runs_is_said(service):
    info = InferenceClient(service.url, provider="hf-inference").get_endpoint_info()
    assert (info["model_id"], info["auto_truncate"]) == (service.model, True)
    assert info["max_input_length"] > 0 and "embedding" in info["model_type"]


def test_a_refusal_is_raised_and_the_next_try_succeeds(service):
    """The client repeats nothing by itself."""
    client = InferenceClient(service.busy)
    with pytest.raises(HfHubHTTPError) as raised:
        client.feature_extraction(TEXTS)
    assert raised.value.response.status_code == 429
    np.testing.assert_array_equal(client.feature_extraction(TEXTS), service.texts(TEXTS))


def test_tokens_and_their_text_are_teis(service):
    """No method of the client sends these two, so its session does."""

    def post(route, body):
        return get_session().post(service.url + route, json=body).raise_for_status().json()

    [tokens] = post("/tokenize", {"inputs": TEXTS[0]})
    assert [token["text"] for token in tokens if not token["special"]] == TEXTS[0].split()
    assert post("/decode", {"ids": [token["id"] for token in tokens]}) == [TEXTS[0]]
