"""Prompts for the queue on the shipped model, each with a node "work" that does the pack's part of it.

Every prompt ends in the host's SaveLatent, so that what it gives can be compared number by number.
"""

from comfy_execution.graph_utils import GraphBuilder
from ddim_toolkit.demo import pictures


class Graph(GraphBuilder):
    """The nodes that all prompts share, for pictures of `size` pixels."""

    def __init__(self, size=64, batch=1):
        super().__init__(prefix="")
        self.loader = self.node("DDIMDemoModel")
        self.model, self.vae = self.loader.out(0), self.loader.out(2)
        self.conds = {
            name: self.node("CLIPTextEncode", clip=self.loader.out(1), text=text).out(0)
            for name, text in (("positive", "red heart"), ("negative", ""))
        }
        self.size, self.batch = size, batch

    def empty(self):
        return self.node(
            "EmptyLatentImage", "empty", width=self.size, height=self.size, batch_size=self.batch
        ).out(0)

    def encoded(self):
        """The pack's own picture as a latent."""
        image = self.node("DDIMDemoPicture", "picture", picture=pictures.NAMES[0]).out(0)
        image = self.node(
            "ImageScale",
            "small",
            image=image,
            upscale_method="area",
            width=self.size,
            height=self.size,
            crop="disabled",
        ).out(0)
        latent = self.node("VAEEncode", "encoded", pixels=image, vae=self.vae).out(0)
        return self.node("RepeatLatentBatch", "repeated", samples=latent, amount=self.batch).out(0)

    def noise(self, seed):
        return self.node("RandomNoise", noise_seed=seed).out(0)

    def sigmas(self, steps, stride="trailing"):
        return self.node(
            "DDIMStrideScheduler", "stride", model=self.model, steps=steps, stride=stride, denoise=1.0
        ).out(0)

    def ddim(self, eta=0.5, order=1):
        return self.node(
            "DDIMSampler",
            eta=eta,
            variance="posterior",
            order=order,
            clip="none",
            noise_device="cpu",
            noise_seed=0,
            clip_range=4.0,
        ).out(0)

    def advanced(self, id, noise, sampler, sigmas, latent, cfg=1.0):
        guider = self.node("CFGGuider", model=self.model, cfg=cfg, **self.conds).out(0)
        return self.node(
            "SamplerCustomAdvanced",
            id,
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent,
        ).out(0)

    def ksampler(self, id, seed, steps, eta=0.5):
        return self.node(
            "DDIMKSampler",
            id,
            model=self.model,
            seed=seed,
            steps=steps,
            cfg=1.0,
            eta=eta,
            stride="trailing",
            latent_image=self.empty(),
            denoise=1.0,
            **self.conds,
        ).out(0)

    def guider(self, cfg=1.0):
        return self.node("CFGGuider", model=self.model, cfg=cfg, **self.conds).out(0)

    def inversion(self, id, seed, steps, method="exact", eta=0.0, guider=None):
        given = {"model": self.model, "cfg": 1.0, **self.conds} if guider is None else {"guider": guider}
        return self.node(
            "DDIMInversion" if guider is None else "DDIMInversionAdvanced",
            id,
            latent_image=self.encoded(),
            sigmas=self.sigmas(steps, "linspace"),
            method=method,
            eta=eta,
            tolerance=1e-5,
            max_iterations=40,
            measure_round_trip=False,
            noise_seed=seed,
            **given,
        )

    def saved(self, samples, name="latent"):
        self.node("SaveLatent", f"save {name}", samples=samples, filename_prefix=name)
        return self


def ksampler(seed, steps, **size):
    graph = Graph(**size)
    return graph.saved(graph.ksampler("work", seed, steps))


def advanced(seed, steps, **size):
    """DDIMSampler at its second order, and eta noise."""
    graph = Graph(**size)
    return graph.saved(
        graph.advanced("work", graph.noise(seed), graph.ddim(order=2), graph.sigmas(steps), graph.empty())
    )


def dial_grid(seed, steps, **size):
    """Two etas across, two strides down."""
    graph = Graph(**size)
    grid = graph.node(
        "DDIMDialGrid",
        "work",
        model=graph.model,
        across="eta",
        across_values="0, 1",
        down="stride",
        down_values="trailing, linspace",
        seed=seed,
        steps=steps,
        cfg=1.0,
        eta=0.0,
        stride="trailing",
        latent_image=graph.empty(),
        denoise=1.0,
        max_calls=10000,
        **graph.conds,
    )
    return graph.saved(grid.out(0))


def morph(seed, steps, **size):
    """Three pictures on the way between two noises."""
    graph = Graph(**size)
    morphed = graph.node(
        "DDIMNoiseInterpolation",
        noise_a=graph.noise(seed),
        noise_b=graph.noise(seed + 1),
        latent_image=graph.empty(),
        frames=3,
        mode="slerp",
        easing="linear",
        strength=0.3,
        rows=4,
    )
    return graph.saved(
        graph.advanced("work", morphed.out(0), graph.ddim(eta=0.0), graph.sigmas(steps), morphed.out(1))
    )


def exact_inversion(seed, steps, **size):
    graph = Graph(**size)
    return graph.saved(graph.inversion("work", seed, steps).out(1))


def noise_maps(seed, steps, **size):
    graph = Graph(**size)
    return graph.saved(graph.inversion("work", seed, steps, eta=1.0).out(1))


def replay(seed, steps, **size):
    """A recorded inversion, sampled again."""
    graph = Graph(**size)
    maps = graph.inversion("maps", seed, steps, eta=1.0)
    return graph.saved(
        graph.advanced(
            "work", graph.noise(seed), maps.out(2), graph.sigmas(steps, "linspace"), graph.encoded()
        )
    )


def inversion_advanced(seed, steps, **size):
    """Inverted with a guider; its state."""
    graph = Graph(**size)
    return graph.saved(graph.inversion("work", seed, steps, guider=graph.guider()).out(4))


def held_replay(seed, steps, **size):
    """A recorded inversion, sampled again with another caption and held to the record."""
    graph = Graph(**size)
    maps = graph.inversion("maps", seed, steps, eta=1.0)
    held = graph.node("DDIMReplayStrength", "held", replay=maps.out(2), strength=0.1, start=0.0, end=0.6).out(
        0
    )
    graph.conds["positive"] = graph.node("CLIPTextEncode", clip=graph.loader.out(1), text="cat").out(0)
    sigmas = graph.sigmas(steps, "linspace")
    return graph.saved(graph.advanced("work", graph.noise(seed), held, sigmas, graph.encoded()))


def edit(seed, steps, **size):
    """One word of a picture changed, under a soft mask of the edit's own."""
    graph = Graph(**size)
    target = graph.node("CLIPTextEncode", clip=graph.loader.out(1), text="purple heart").out(0)
    made = graph.node(
        "DDIMEdit",
        "work",
        model=graph.model,
        source=graph.conds["positive"],
        target=target,
        negative=graph.conds["negative"],
        source_cfg=1.0,
        target_cfg=2.0,
        latent_image=graph.encoded(),
        sigmas=graph.sigmas(steps, "linspace"),
        eta=0.5,
        seed=seed,
        averages=2,
        mask_softness=0.5,
    )
    graph.node("MaskPreview", mask=made.out(1))
    return graph.saved(made.out(0))


def probe(seed, steps, refine=0, **size):
    """A schedule measured on `steps` probe steps, and a picture sampled on it."""
    graph = Graph(**size)
    measured = graph.node(
        "DDIMAdaptiveScheduler",
        "work",
        model=graph.model,
        cfg=1.0,
        latent_image=graph.empty(),
        steps=min(steps, 8),
        order=1,
        criterion="reconstruction error",
        probe_steps=steps,
        probe_images=1,
        seed=seed,
        refine=refine,
        **graph.conds,
    )
    return graph.saved(
        graph.advanced("draw", graph.noise(seed), graph.ddim(), measured.out(0), graph.empty())
    )


def trajectory(seed, steps, **size):
    graph = Graph(**size)
    film = graph.node(
        "DDIMTrajectory",
        "work",
        model=graph.model,
        seed=seed,
        steps=steps,
        cfg=1.0,
        eta=0.5,
        stride="trailing",
        latent_image=graph.empty(),
        denoise=1.0,
        **graph.conds,
    )
    return graph.saved(film.out(0), "film").saved(film.out(1))


def draft_lora(seed, rounds, **size):
    """Trained, saved by core, and a draft drawn with it, loaded by core."""
    graph = Graph(**size)
    work = graph.node(
        "DDIMDraftLoRA",
        "work",
        model=graph.model,
        negative=graph.conds["negative"],
        cfg=4.0,
        latent_image=graph.empty(),
        calls=2,
        stride="trailing",
        teacher_runs=8,
        rounds=rounds,
        rank=4,
        learning_rate=0.001,
        batch=2,
        seed=seed,
        gradient_checkpointing=True,
        positive=graph.conds["positive"],
        clip=graph.loader.out(1),
        captions="smiling face\ncat",
    )
    graph.node("SaveLoRA", "save lora", lora=work.out(0), prefix="loras/draft")
    graph.node("LossGraphNode", "plot", loss=work.out(1), filename_prefix="loss")
    loader = graph.node(
        "LoraModelLoader", model=graph.model, lora=work.out(0), strength_model=1.0, bypass=False
    )
    graph.model = loader.out(0)
    drawn = graph.advanced("draft", graph.noise(seed), graph.ddim(eta=0.0), work.out(2), graph.empty())
    return graph.saved(drawn)


def held_noise(seed, steps):
    """One picture from a noise that holds a thousand, 4 megabytes of them."""
    graph = Graph(size=128, batch=1024)
    drawn = graph.node("DDIMLatentFromNoise", noise=graph.noise(seed), latent_image=graph.empty()).out(0)
    noise = graph.node("DDIMNoiseFromLatent", latent_image=drawn, scale="keep").out(0)
    first = graph.node("LatentFromBatch", samples=graph.empty(), batch_index=0, length=1).out(0)
    return graph.saved(graph.advanced("work", noise, graph.ddim(), graph.sigmas(steps), first))


def noises(seed, **size):
    """Noise alone, with no model call: arithmetic on a morph."""
    graph = Graph(**size)
    a, b, c = (graph.noise(seed + k) for k in range(3))
    mixed = graph.node("DDIMNoiseArithmetic", base=a, plus=b, minus=c, weight=0.5).out(0)
    morphed = graph.node(
        "DDIMNoiseInterpolation",
        noise_a=a,
        noise_b=mixed,
        latent_image=graph.empty(),
        frames=4,
        mode="slerp",
        easing="linear",
        strength=0.3,
        rows=4,
    )
    drawn = graph.node("DDIMLatentFromNoise", noise=morphed.out(0), latent_image=morphed.out(1)).out(0)
    held = graph.node("DDIMNoiseFromLatent", latent_image=drawn, scale="unit variance").out(0)
    back = graph.node("DDIMLatentFromNoise", noise=held, latent_image=morphed.out(1)).out(0)
    graph.node("PreviewAny", source=back)
    return graph
