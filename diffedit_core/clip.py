"""CLIP's text encoder: SD 2.x's OpenCLIP-H (exact GELU, 23 of its 24 layers) and SD 1.x's ViT-L
(quick GELU) by config."""

from . import kernels as K
from . import params as P


def specs(config):
    """Leaves of the text encoder for a `TextConfig`."""
    width = config.hidden_size
    attention = {
        name: P.linear(width, width) for name in ("k_proj", "v_proj", "q_proj", "out_proj")
    }
    layer = {
        "self_attn": attention,
        "layer_norm1": P.norm(width),
        "mlp": {
            "fc1": P.linear(width, config.intermediate_size),
            "fc2": P.linear(config.intermediate_size, width),
        },
        "layer_norm2": P.norm(width),
    }
    return {
        "text_model.embeddings": {
            "token_embedding": {"weight": P.Leaf((config.vocab_size, width), "embedding")},
            "position_embedding": {
                "weight": P.Leaf((config.max_position_embeddings, width), "embedding")
            },
        },
        **{f"text_model.encoder.layers.{i}": layer for i in range(config.num_hidden_layers)},
        "text_model.final_layer_norm": P.norm(width),
    }


def apply(params, ids, config, kernels):
    """Token ids -> text states after the final layer norm.

    h = token(ids) + position; each layer: h += attention(norm(h)) (causal), h += mlp(norm(h)).

    Args:
        params: the tree of `specs(config)`.
        ids: int32 [B,T], T at most max_position_embeddings.
    Returns:
        encoder_hidden_states [B,T,D] in the parameters' dtype.
    Source: Radford et al. 2021 (arXiv 2103.00020), section 2.4.
    """
    embeddings = params["text_model.embeddings"]
    h = K.embedding(embeddings["token_embedding"], ids, kernels)
    h = h + embeddings["position_embedding"]["weight"][: ids.shape[1]]
    for i in range(config.num_hidden_layers):
        layer = params["text_model.encoder.layers." + str(i)]
        n = K.layer_norm(layer["layer_norm1"], h, config.layer_norm_eps, kernels)
        query, key, value = [
            K.linear(layer["self_attn"][name], n, kernels)
            for name in ("q_proj", "k_proj", "v_proj")
        ]
        attended = K.attention(query, key, value, config.num_attention_heads, kernels, causal=True)
        h = h + K.linear(layer["self_attn"]["out_proj"], attended, kernels)
        n = K.layer_norm(layer["layer_norm2"], h, config.layer_norm_eps, kernels)
        n = K.linear(layer["mlp"]["fc1"], n, kernels)
        n = K.gelu(n, kernels) if config.hidden_act == "gelu" else K.quick_gelu(n, kernels)
        h = h + K.linear(layer["mlp"]["fc2"], n, kernels)
    return K.layer_norm(params["text_model.final_layer_norm"], h, config.layer_norm_eps, kernels)
