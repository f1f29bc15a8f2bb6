"""The shipped model as the host's own objects, so that every core node works on it."""

import json
import logging
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.sd1_clip import ClipTokenWeightEncoder, escape_important, token_weights, unescape_important

from .text import TextNetwork, Vocabulary

FOLDER = Path(__file__).parent


class EmojiLatents(comfy.latent_formats.LatentFormat):
    """Each latent channel shifted and scaled to mean 0 and deviation 1 for the UNet; raw everywhere else."""

    def __init__(self, config):
        self.mean = torch.tensor(config["latent_mean"]).view(1, 4, 1, 1)
        self.std = torch.tensor(config["latent_std"]).view(1, 4, 1, 1)
        # config.json has the colours of raw latents; the host previews the UNet's, which are normalised.
        factors = torch.tensor(config["latent_rgb_factors"])
        self.latent_rgb_factors = (factors * self.std.view(4, 1)).tolist()
        self.latent_rgb_factors_bias = (
            torch.tensor(config["latent_rgb_bias"]) + self.mean.flatten() @ factors
        ).tolist()

    def process_in(self, latent):
        return (latent - self.mean.to(latent)) / self.std.to(latent)

    def process_out(self, latent):
        return latent * self.std.to(latent) + self.mean.to(latent)


class EmojiConfig(comfy.supported_models_base.BASE):
    """What the host keeps of a checkpoint it has recognised; here it comes from config.json."""

    unet_extra_config = {}
    memory_usage_factor = 0.3  # 64 channels where SD 1.5 has 320

    def __init__(self, config):
        betas = config["betas"]
        if betas["schedule"] != "scaled_linear" or config["prediction"] != "v":
            raise ValueError(
                f"config.json: betas {betas['schedule']!r} and prediction {config['prediction']!r}; "
                "this loader knows 'scaled_linear' and 'v'"
            )
        # The host's name for betas linear in their square root is "linear", which is also its default.
        self.sampling_settings = {
            "beta_schedule": "linear",
            "linear_start": betas["start"],
            "linear_end": betas["end"],
            "timesteps": betas["timesteps"],
        }
        self.latent_format = lambda: EmojiLatents(config)
        super().__init__(config["unet"])

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


class WordTokenizer:
    """Words for the host's CLIP: one list of (number, weight), with its "(word:1.2)" weights."""

    def __init__(self, config):
        self.vocabulary = Vocabulary(config["vocabulary"], config["tokens"], config["pattern"])

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        pairs, unknown = [], []
        for part, weight in token_weights(escape_important(text), 1.0):
            for word in self.vocabulary.split(unescape_important(part)):
                if word in self.vocabulary.words:
                    pairs.append((self.vocabulary.words[word], weight, len(pairs) + 1))
                else:
                    unknown.append(word)
        if unknown:
            logging.warning("DDIM demo model: left out words it does not know: %s", ", ".join(unknown))
        length = self.vocabulary.tokens
        if len(pairs) > length:
            logging.warning(
                "DDIM demo model: a caption holds %d words; left out the last %d", length, len(pairs) - length
            )
        pairs = pairs[:length] + [(0, 1.0, 0)] * (length - len(pairs))
        return {"words": [pairs if return_word_ids else [pair[:2] for pair in pairs]]}

    def untokenize(self, token_weight_pairs):
        words = {number: word for word, number in self.vocabulary.words.items()}
        return [(pair, words.get(pair[0], "")) for pair in token_weight_pairs]

    def state_dict(self):
        return {}


class TextEncoder(TextNetwork, ClipTokenWeightEncoder):
    """The text network with the methods that the host's CLIP calls."""

    def __init__(self, config, dtype=None, device=None, model_options=None):
        super().__init__(
            len(config["vocabulary"]),
            config["tokens"],
            config["width"],
            config["heads"],
            config["feedforward"],
        )
        self.to(device=device, dtype=dtype)
        self.dtypes = {dtype}

    def gen_empty_tokens(self, special_tokens, length):
        return [0] * length

    special_tokens = {}

    def encode_token_weights(self, tokens):
        return super().encode_token_weights(tokens["words"])

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(self, tokens):
        numbers = torch.tensor(tokens, device=self.pos.device)
        return self(numbers).float(), None

    def set_clip_options(self, options):
        """There is one layer and no pooled output: nothing to choose."""

    def reset_clip_options(self):
        pass

    def load_sd(self, sd):
        return self.load_state_dict(sd, strict=False)


class _Target:
    """What comfy.sd.CLIP asks for: two factories and their parameters."""

    def __init__(self, config):
        self.params = {"config": config}
        self.clip = TextEncoder
        self.tokenizer = lambda embedding_directory=None, tokenizer_data=None: WordTokenizer(config)


def _load_model(config, weights):
    parameters = comfy.utils.calculate_parameters(weights)
    device = comfy.model_management.get_torch_device()
    settings = EmojiConfig(config)
    dtype = comfy.model_management.unet_dtype(device, parameters, settings.supported_inference_dtypes)
    settings.set_inference_dtype(
        dtype, comfy.model_management.unet_manual_cast(dtype, device, settings.supported_inference_dtypes)
    )
    offload = comfy.model_management.unet_offload_device()
    model = settings.get_model(
        weights, "", device=comfy.model_management.unet_inital_load_device(parameters, dtype)
    )
    model.load_model_weights(dict(weights))
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def load(folder=FOLDER):
    """(MODEL, CLIP, VAE) from config.json and the safetensors files in `folder`. Raises FileNotFoundError
    without them."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    unet, text, vae = (
        comfy.utils.load_torch_file(str(folder / f"{name}.safetensors"), safe_load=True)
        for name in ("unet", "text", "vae")
    )
    model = _load_model(config, unet)
    # float32: the network is tiny, and CPUs are slow at half precision.
    clip = comfy.sd.CLIP(_Target(config["text"]), model_options={"dtype": torch.float32})
    clip.load_sd(text)
    autoencoder = comfy.sd.VAE(sd=vae)
    autoencoder.throw_exception_if_invalid()
    return model, clip, autoencoder


def draft_lora(folder=FOLDER):
    """The LORA_MODEL with which the model draws in four DDIM jumps without guidance what it draws in many at
    cfg 4. Raises FileNotFoundError without its file in `folder`."""
    return comfy.utils.load_torch_file(str(Path(folder) / "draft_lora.safetensors"), safe_load=True)
