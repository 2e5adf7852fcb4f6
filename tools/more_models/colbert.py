"""ColBERT models as pylate saves them. Skipped if pylate is not installed."""

from pathlib import Path

from pylate import models
from shared import SCRATCH, export, finish, maker, model, save, texts, tokenizer


def colbert(folder, kind, like, tok, more=None, **options):
    tok = tokenizer(tok)
    source = save(model(kind, tok, like, **(more or {})), tok, SCRATCH)
    encoder = models.ColBERT(source, embedding_size=16, device="cpu", **options).eval()
    encoder.save(str(folder))
    # Save again with the embeddings of the two prefixes, which pylate has added.
    encoder[0].auto_model.save_pretrained(folder)
    export(folder, "feature-extraction", library_name="transformers")

    def vectors(is_query):
        each = [encoder.encode([text], is_query=is_query)[0] for text in texts()]
        return [[[round(float(x), 8) for x in row] for row in one] for one in each]

    token_embeddings = {"query": vectors(True), "document": vectors(False)}
    expected = {"task": "token_embeddings", "texts": texts(), "dimensions": 16}
    finish(Path(folder), {**expected, "token_embeddings": token_embeddings})


@maker
def colbert_modernbert(folder):
    more = {
        "max_position_embeddings": 512,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    options = {"query_length": 20, "document_length": 40, "attend_to_expansion_tokens": True}
    colbert(folder, "ModernBertModel", "modernbert", "cross-encoder-modernbert", more, **options)


@maker
def colbert_no_expansion(folder):
    options = {
        "query_length": 20,
        "document_length": 40,
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "do_query_expansion": False,
        "skiplist_words": [],
    }
    colbert(folder, "BertModel", "bert", "pooling-max", **options)
