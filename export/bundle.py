"""A model's weights to a bundle folder: step graphs, shared weight files, manifest; written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import BITS, COLOUR_FIXES, Graph, Sizes, graphs
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.manifest import DTYPES, File, Manifest, sha256_of
from flashvsr_trt.export import fused_decoder, fused_lq
from flashvsr_trt.export.colour import Post
from flashvsr_trt.export.dit import Dit
from flashvsr_trt.export.external import INLINE_BYTES, WeightFiles, write_graph
from flashvsr_trt.export.folder import new_folder
from flashvsr_trt.export.fused import FUSED, PLAIN
from flashvsr_trt.export.fused_colour import FusedAdain
from flashvsr_trt.export.fused_decoder import FusedTcDecoder
from flashvsr_trt.export.fused_lq import FusedLqProj
from flashvsr_trt.export.layouts import LqSizes, TcSizes
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.tc_decoder import TcDecoder
from flashvsr_trt.export.to_onnx import Step, to_model
from flashvsr_trt.export.vae_decoder import VaeDecoder
from flashvsr_trt.export.validate import validate
from flashvsr_trt.export.weights import Weights
from flashvsr_trt.plugins_trt.spec import ABI

Report = Callable[[str], None]
PRECISIONS = tuple(name for name in manifests.PRECISIONS if name != "fp8")  # that one is made of fp16: export.float8


@dataclass(frozen=True, kw_only=True)
class Options:
    """What an export chooses. The model's version comes with the weights."""

    precision: str = "fp16"  # type of graphs, state and latents
    local_range: int = 11  # baked into the attention nodes
    fold: bool = True  # modulation, gates and norm affines into the neighbouring Linear layers
    storage: str | None = None  # "fp16": an fp32 bundle's weights rounded to and stored as fp16, half the size
    fused: bool = False  # chains of operations as nodes of the op domain, for ONNX Runtime on CUDA
    check: bool = True  # compare every written graph with its torch module
    model: str = "flashvsr"
    about: str = ""
    meaningful: bool = True
    colour_fix: str = COLOUR_FIXES[0]  # what suits these weights
    sources: dict[str, str] = field(default_factory=dict)  # weight file name -> SHA-256

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision}", expected=" or ".join(PRECISIONS))
        if self.storage not in (None, "fp16") or (self.storage and self.precision != "fp32"):
            raise UsageError(
                f"storage {self.storage} with precision {self.precision}",
                expected="storage fp16 with precision fp32",
            )
        if self.fused and self.precision == "fp32":
            raise UsageError("fused operations in fp32", expected="fp16 or bf16: their kernels are for those")
        if self.colour_fix not in COLOUR_FIXES:
            raise UsageError(f"colour fix {self.colour_fix}", expected=" or ".join(COLOUR_FIXES))
        if self.local_range < 1:
            raise UsageError(f"local range {self.local_range}", expected="at least 1 window")

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, DTYPES[self.precision])


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a bundle holds: the networks' steps, given one network at a time so that only one is in memory."""

    version: str  # of the model: v1 or v1.1
    sizes: Sizes
    contract: dict[str, Graph]
    networks: Iterator[list[Step]]


def export_bundle(
    weights: Weights,
    out: Path,
    options: Options,
    *,
    overwrite: bool = False,
    report: Report = lambda line: None,
) -> Manifest:
    """Writes a model as a bundle to the folder `out`.

    Args:
        weights: the model; its tensors are not changed.

    The other arguments, the result and the errors are those of `write_bundle`.
    """
    contract = graphs(weights.sizes, causal=weights.causal)
    networks = _networks(weights, options, contract)
    content = Content(version=weights.version, sizes=weights.sizes, contract=contract, networks=networks)
    return write_bundle(content, out, options, overwrite=overwrite, report=report)


def write_bundle(
    content: Content,
    out: Path,
    options: Options,
    *,
    overwrite: bool = False,
    report: Report = lambda line: None,
) -> Manifest:
    """Writes step modules as a bundle to the folder `out`.

    Args:
        content: the step modules.
        out: the bundle's folder, made here; a bundle that is there already is replaced if `overwrite`.
        options: see Options.
        overwrite: replace an existing bundle.
        report: gets one line per finished graph.

    Returns:
        The manifest as written.

    Raises:
        OutputExists: `out` exists.
        BundleError: `out` is something else than a bundle, or is being written by another export.
        WriteError: the disk is full or refuses.
        FlashVSRError: a graph does not compute what its module computes.
    """
    with new_folder(out, overwrite=overwrite) as part:
        files = WeightFiles(part, storage=options.storage)
        for network in content.networks:
            for step in network:
                _write(step, part, files, options)
            files.flush()
            for step in network:
                report(_checked(step, part, options))
            network.clear()  # the module need not stay while the next one is made
        files.close()
        manifest = _manifest(content, options, part)
        manifests.save(manifest, part)
    return manifest


def _networks(weights: Weights, options: Options, contract: dict[str, Graph]) -> Iterator[list[Step]]:
    """The steps network by network, made when they are asked for."""

    def steps(module: nn.Module, file: str, *names: str) -> list[Step]:
        if options.storage == "fp16":
            _round(module)
        return steps_of(module, file, names, contract)

    fused = options.fused and fused_lq.fits(LqSizes.of(weights.lq_proj), causal=weights.causal)
    projector = FusedLqProj if fused else LqProj
    lq_proj = projector.of(weights.lq_proj, causal=weights.causal, dtype=options.dtype)
    yield steps(lq_proj, "lq_proj.bin", "lq_proj_first", "lq_proj")
    del lq_proj
    dit = Dit.of(
        weights.dit,
        weights.prompt,
        folded=options.fold,
        local_range=options.local_range,
        dtype=options.dtype,
        ops=FUSED if options.fused else PLAIN,
    )
    yield steps(dit, "dit.bin", "dit_first", "dit")
    del dit
    fused = options.fused and fused_decoder.fits(TcSizes.of(weights.tc_decoder))
    decoder = FusedTcDecoder if fused else TcDecoder
    yield steps(decoder.of(weights.tc_decoder, dtype=options.dtype), "tc_decoder.bin", "tc_decoder")
    if weights.vae:
        vae = VaeDecoder.of(weights.vae, dtype=options.dtype)
        yield steps(vae, "vae_decoder.bin", "vae_decoder_first", "vae_decoder")
        del vae
    yield post_steps(contract, fused=options.fused)


def steps_of(module: nn.Module, file: str, names: Iterable[str], contract: dict[str, Graph]) -> list[Step]:
    """The steps of those names that the contract has, all computed by `module`, its weights in `file`."""
    return [Step(graph=contract[name], module=module, file=file) for name in names if name in contract]


def post_steps(contract: dict[str, Graph], *, fused: bool = False) -> list[Step]:
    """The colour fixes, which hold no weights of a model."""

    def module(fix: str, bits: int) -> nn.Module:
        return FusedAdain(bits) if fused and fix == "adain" else Post(fix, bits)

    variants = [(fix, bits) for fix in COLOUR_FIXES for bits in BITS]
    return [
        step
        for fix, bits in variants
        for step in steps_of(module(fix, bits), "post.bin", [f"post_{fix}{bits}"], contract)
    ]


def _round(module: nn.Module) -> None:
    """Rounds what will be stored as float16, so that module and graph hold the same numbers."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype == torch.float32 and tensor.nbytes > INLINE_BYTES:
            tensor.data = tensor.data.half().float()


def _write(step: Step, folder: Path, files: WeightFiles, options: Options) -> None:
    model = to_model(step, options.precision)
    model.metadata_props.update(
        {
            "flashvsr.manifest_schema": str(manifests.SCHEMA),
            "flashvsr.op_abi": str(ABI),
            "flashvsr.model": options.model,
            "flashvsr.precision": options.precision,
            **{f"flashvsr.weights.{name}": digest for name, digest in sorted(options.sources.items())},
        }
    )
    files.externalize(model, step.file)
    write_graph(model, folder / f"{step.graph.name}.onnx")


def _checked(step: Step, folder: Path, options: Options) -> str:
    if not options.check:
        return f"{step.graph.name}: written, not checked"
    return str(validate(step, folder / f"{step.graph.name}.onnx", options.precision))


def files_of(folder: Path) -> dict[str, File]:
    """What a manifest says of a folder's graphs and weight files."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".bin"))
    return {path.name: File(sha256=sha256_of(path), bytes=path.stat().st_size) for path in paths}


def _manifest(content: Content, options: Options, folder: Path) -> Manifest:
    return Manifest(
        model=options.model,
        about=options.about,
        model_version=content.version,
        precision=options.precision,
        local_range=options.local_range,
        op_abi=ABI,
        sizes=content.sizes,
        graphs=content.contract,
        files=files_of(folder),
        weights=options.sources,
        meaningful=options.meaningful,
        colour_fix=options.colour_fix,
    )
