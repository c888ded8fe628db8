"""LangChain's OpenAIEmbeddings: texts themselves with check_embedding_ctx_length=False, else ids of OpenAI's tokenizer, which are refused."""

import numpy as np
import openai
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings


def embeddings(url, **options):
    return OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", **options)


def test_documents_and_a_query(service):
    client = embeddings(service.url, model=service.model, check_embedding_ctx_length=False)
    texts = ["a photo of a cat", "a slice of pizza", "a red heart"]
    assert np.array_equal(np.array(client.embed_documents(texts), "f4"), service.texts(texts))
    assert np.array_equal(np.array(client.embed_query("a snowman"), "f4"), service.texts(["a snowman"])[0])


def test_dimensions(service):
    client = embeddings(service.url, model=service.model, check_embedding_ctx_length=False, dimensions=32)
    head = service.texts(["a snowman"])[0, :32]
    assert np.allclose(client.embed_query("a snowman"), head / np.linalg.norm(head), atol=1e-6)


def test_by_default_it_sends_token_ids_and_is_told_what_to_set(service, monkeypatch):
    # OpenAI's vocabulary comes by the network; what ids mean does not matter here, so bytes are tokens.
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: encoding)
    client = embeddings(service.url, model=service.model)
    with pytest.raises(openai.BadRequestError, match="token ids.*check_embedding_ctx_length=False"):
        client.embed_documents(["a photo of a cat"])


def test_another_model_is_not_found(service):
    client = embeddings(service.url, model="text-embedding-ada-002", check_embedding_ctx_length=False)
    with pytest.raises(openai.NotFoundError, match="text-embedding-ada-002"):
        client.embed_query("a snowman")


def test_a_refusal_is_repeated_and_succeeds(service):
    before = len(service.refused), len(service.relayed)
    client = embeddings(service.busy, model=service.model, check_embedding_ctx_length=False)
    assert np.array_equal(np.array(client.embed_query("a patient snowman"), "f4"), service.texts(["a patient snowman"])[0])
    assert service.refused[before[0] :] == service.relayed[before[1] :] == ["/v1/embeddings"]
