"""LlamaIndex's embeddings of servers like OpenAI's."""

import asyncio

import numpy as np
import openai
import pytest
from llama_index.embeddings.openai_like import OpenAILikeEmbedding


def embedding(url, model, **options):
    return OpenAILikeEmbedding(model_name=model, api_base=f"{url}/v1", **options)


def test_texts_in_batches_and_a_query(service):
    client = embedding(service.url, service.model, embed_batch_size=2)
    texts = ["a photo of a cat", "a slice of pizza", "a red heart"]
    assert np.array_equal(np.array(client.get_text_embedding_batch(texts), "f4"), service.texts(texts))
    assert np.array_equal(np.array(client.get_query_embedding("a snowman"), "f4"), service.texts(["a snowman"])[0])


def test_asynchronously(service):
    client = embedding(service.url, service.model)
    vector = asyncio.run(client.aget_text_embedding("a snowman"))
    assert np.array_equal(np.array(vector, "f4"), service.texts(["a snowman"])[0])


def test_dimensions(service):
    client = embedding(service.url, service.model, dimensions=32)
    head = service.texts(["a snowman"])[0, :32]
    assert np.allclose(client.get_text_embedding("a snowman"), head / np.linalg.norm(head), atol=1e-6)


def test_another_model_is_not_found(service):
    with pytest.raises(openai.NotFoundError, match="text-embedding-ada-002"):
        embedding(service.url, "text-embedding-ada-002").get_text_embedding("a snowman")


def test_a_refusal_is_repeated_and_succeeds(service):
    before = len(service.refused), len(service.relayed)
    vector = embedding(service.busy, service.model).get_text_embedding("a very patient snowman")
    assert np.array_equal(np.array(vector, "f4"), service.texts(["a very patient snowman"])[0])
    assert service.refused[before[0] :] == service.relayed[before[1] :] == ["/v1/embeddings"]
