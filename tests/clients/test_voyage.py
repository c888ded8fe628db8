"""Voyage's own client, `voyageai`: pictures and texts at /v1/multimodalembeddings, texts at /v1/embeddings."""

import base64

import numpy as np
import PIL.Image
import pytest
import voyageai


def client_of(url, **options):
    return voyageai.Client(api_key="none", base_url=f"{url}/v1", **options)


@pytest.fixture(scope="module")
def client(service):
    return client_of(service.url, max_retries=1)


def f4(rows):
    return np.array(rows, "f4")


def in_type(expected, dtype):
    """What `dtype` has of `expected`, where that can be told without the scale of int8."""
    bits = np.packbits(expected >= 0, axis=1)
    return {"ubinary": bits, "binary": bits.astype("i2") - 128}[dtype]


def lossless(picture):
    """A file of which the client's WebP is a copy to the pixel: without EXIF and alpha."""
    with PIL.Image.open(picture) as image:
        return image.convert("RGB")


def test_pictures_as_lossless_webp(client, service):
    pictures = [picture for picture in service.pictures if picture.suffix == ".png"][:4]
    answer = client.multimodal_embed([[lossless(picture)] for picture in pictures], model=service.model)
    assert np.array_equal(f4(answer.embeddings), service.images(pictures))
    sizes = [lossless(picture).size for picture in pictures]
    assert answer.image_pixels == sum(width * height for width, height in sizes)
    assert (answer.video_pixels, answer.text_tokens, answer.total_tokens) == (0, 0, 0)


def test_texts_and_pictures_mixed_keep_their_order(client, service):
    picture = next(picture for picture in service.pictures if picture.suffix == ".png")
    answer = client.multimodal_embed([["a dog"], [lossless(picture)], ["a tree"]], model=service.model)
    texts = service.texts(["a dog", "a tree"])
    assert np.array_equal(f4(answer.embeddings), np.stack([texts[0], service.images([picture])[0], texts[1]]))
    assert answer.total_tokens == answer.text_tokens > 2


def test_contents_with_addresses_that_are_data(client, service):
    picture = service.pictures[-2]
    url = f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    contents = [
        {"content": [{"type": "image_url", "image_url": url}]},
        {"content": [{"type": "image_base64", "image_base64": url}]},
    ]
    answer = client.multimodal_embed(contents, model=service.model, input_type="document", truncation=False)
    assert np.array_equal(f4(answer.embeddings), service.images([picture, picture]))


def test_types_and_dimensions_of_both_routes(client, service):
    expected = service.texts(["a cat"])

    def text(**options):
        return client.embed(["a cat"], model=service.model, **options).embeddings

    def content(**options):
        return client.multimodal_embed([["a cat"]], model=service.model, **options).embeddings

    assert np.array_equal(f4(text()), expected) and np.array_equal(f4(content()), expected)
    for ask in (text, content):
        assert np.array_equal(f4(ask(output_dtype="float")), expected)
        for dtype in ("binary", "ubinary"):
            assert np.array_equal(ask(output_dtype=dtype), in_type(expected, dtype)), dtype
        signed, unsigned = np.array(ask(output_dtype="int8")), np.array(ask(output_dtype="uint8"))
        assert np.array_equal(unsigned, signed + 128) and np.abs(signed).max() <= 127
        assert np.dot(signed[0] / np.linalg.norm(signed), expected[0]) > 0.999
        cut = f4(ask(output_dimension=64))
        assert cut.shape == (1, 64) and abs(np.linalg.norm(cut) - 1) < 1e-6


def test_texts(client, service):
    texts = ["a photo of a cat", "a slice of pizza"]
    answer = client.embed(texts, model=service.model, input_type="query")
    assert np.array_equal(f4(answer.embeddings), service.texts(texts))
    assert answer.total_tokens > 2


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "voyage-multimodal-3"}, voyageai.error.InvalidRequestError, "`voyage-multimodal-3` is not served"),
        ({"output_dimension": 1 << 20}, voyageai.error.InvalidRequestError, "dimensions"),
        ({"truncation": False}, voyageai.error.MalformedRequestError, "input 1: "),
    ],
)
@pytest.mark.parametrize("route", ["embed", "multimodal_embed"])
def test_errors(client, service, route, options, error, says):
    options = {"model": service.model} | options
    texts = ["a", "word " * 100]
    with pytest.raises(error) as raised:
        if route == "embed":
            client.embed(texts, **options)
        else:
            client.multimodal_embed([[text] for text in texts], **options)
    assert says in str(raised.value)


def test_what_is_no_picture(client, service):
    content = [{"content": [{"type": "image_base64", "image_base64": "QUJD"}]}]
    with pytest.raises(voyageai.error.InvalidRequestError, match="input 0: "):
        client.multimodal_embed(content, model=service.model)


def test_a_wrong_key(start):
    locked = start(name="voyage-key", key="secret")
    with pytest.raises(voyageai.error.AuthenticationError):
        client_of(locked.url, max_retries=1).multimodal_embed([["a"]], model=locked.model)


def test_a_refusal_is_repeated_by_the_client(service):
    answer = client_of(service.busy, max_retries=2).embed(["a voyage"], model=service.model)
    assert np.array_equal(f4(answer.embeddings), service.texts(["a voyage"]))
    answer = client_of(service.busy, max_retries=2).multimodal_embed([["a voyage"]], model=service.model)
    assert np.array_equal(f4(answer.embeddings), service.texts(["a voyage"]))


def test_a_refusal_raises_where_it_is_not_repeated(service):
    with pytest.raises(voyageai.error.RateLimitError):
        client_of(service.busy, max_retries=1).multimodal_embed([["a voyage without patience"]], model=service.model)
