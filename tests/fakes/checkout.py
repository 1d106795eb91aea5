"""A folder that looks like a checkout of EDM or GeoLDM to the launcher, around the stand-in models.

Its scripts do what the real ones do with a model, in the same order, and print what a test needs:
how often the network was called, counted by themselves, and what came out.
"""

import textwrap
from pathlib import Path

_MODELS = """
    import torch
    from equivariant_diffusion import en_diffusion as edm_like


    class Properties:
        normalizer = None


    def _dynamics(args, n_features):
        return edm_like.TinyDynamics(n_features, len(args.conditioning))


    def get_model(args, device, dataset_info, dataloader_train):
        model = edm_like.EnVariationalDiffusion(
            _dynamics(args, 6), 6, timesteps=args.diffusion_steps
        )
        return model, None, Properties() if args.conditioning else None
"""
_LATENT = """

    def get_autoencoder(args, device, dataset_info, dataloader_train):
        n_context = len(args.conditioning)
        vae = edm_like.EnHierarchicalVAE(
            edm_like.TinyCoder(6, 2, n_context), edm_like.TinyCoder(2, 6, n_context), 6, 2
        )
        return vae, None, None


    def get_latent_diffusion(args, device, dataset_info, dataloader_train):
        vae = get_autoencoder(args, device, dataset_info, dataloader_train)[0]
        model = edm_like.EnLatentDiffusion(
            vae=vae, trainable_ae=args.trainable_ae, dynamics=_dynamics(args, 2), in_node_nf=2,
            timesteps=args.diffusion_steps,
        )
        return model, None, Properties() if args.conditioning else None
"""
_DATA = '''
    from types import SimpleNamespace
    import torch


    class Loader(list):
        """Six batches of 30 molecules of 4 to 7 atoms, all of H, C, N, O, F."""

        def __init__(self):
            generator = torch.Generator().manual_seed(0)
            self.dataset = SimpleNamespace(included_species=torch.tensor([1, 6, 7, 8, 9]))
            for _ in range(6):
                mask = torch.arange(7) < torch.randint(4, 8, (30, 1), generator=generator)
                kind = torch.randint(5, (30, 7), generator=generator)
                one_hot = torch.nn.functional.one_hot(kind, 5) * mask[..., None]
                x = torch.randn(30, 7, 3, generator=generator).cumsum(1) * mask[..., None]
                self.append({
                    "positions": x,
                    "one_hot": one_hot > 0,
                    "atom_mask": mask,
                    "charges": one_hot @ self.dataset.included_species[:, None],
                    "alpha": torch.randn(30, generator=generator),
                })
'''
_UTILS = """
    import torch


    def prepare_context(conditioning, batch, norms):
        parts = [(batch[key] - norms[key]["mean"]) / norms[key]["mad"] for key in conditioning]
        return torch.stack(parts, -1)[:, None] * batch["atom_mask"][..., None]
"""
_COMMON = '''
    import argparse, copy, os, pickle, signal, sys
    import torch
    from configs.datasets_config import Loader
    from qm9 import utils
    from qm9.models import {factory}

    NORMS = {{"alpha": {{"mean": 0.5, "mad": 2.0}}}}


    def sample(model, context_nf):
        """Two molecules, and how often the network was called for them."""
        torch.manual_seed(0)
        network, calls = model.dynamics._forward, []
        model.dynamics._forward = lambda *args: calls.append(1) or network(*args)
        mask = torch.ones(2, 5, 1)
        context = torch.zeros(2, 5, context_nf) if context_nf else None
        x, h = model.eval().sample(2, 5, mask, torch.ones(50, 1), context)
        del model.dynamics._forward
        print("calls", len(calls))
        print("sample", x.flatten().tolist(), h["categorical"].sum((0, 1)).tolist())


    def batch_of(data, model):
        h = {{"categorical": data["one_hot"].float(), "integer": data["charges"].float()}}
        mask = data["atom_mask"].float()[..., None]
        x = data["positions"]
        x = (x - (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask
        return x, h, mask


    parser = argparse.ArgumentParser()
    parser.add_argument("--model_path", default="outputs/x")
    parser.add_argument("--exp_name", default="x")
    parser.add_argument("--diffusion_steps", type=int, default=40)
    parser.add_argument("--conditioning", nargs="+", default=[])
    parser.add_argument("--trainable_ae", action="store_true")
    parser.add_argument("--ae_path")
    parser.add_argument("--max_t", type=int)
    parser.add_argument("--resume")
    parser.add_argument("--end", default="")
    options = parser.parse_args()


    def end():
        """Stop as the command line says."""
        if options.end.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, options.end))
        if options.end == "raise":
            raise RuntimeError("the script failed")
        if options.end:
            sys.exit(int(options.end) if options.end.isdigit() else options.end)
'''
_MAIN = """
    args = options
    if options.resume:
        with open(os.path.join(options.resume, "args.pickle"), "rb") as file:
            args = pickle.load(file)
        args.exp_name = args.exp_name + "_resume"
    args.dataset, args.dp = "qm9", True
    os.makedirs("outputs/" + args.exp_name, exist_ok=True)
    data = Loader()
    torch.manual_seed(1)
    model, _, properties = {factory}(args, "cpu", {{}}, dataloader_train=data)
    if properties is not None:
        properties.normalizer = NORMS
    if options.end == "early":
        sys.exit("early")
    if options.resume:
        model.load_state_dict(torch.load(os.path.join(options.resume, "flow.npy")))
    model_ema = copy.deepcopy(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    torch.manual_seed(2)
    for batch in data:
        x, h, mask = batch_of(batch, model)
        context = None
        if args.conditioning:
            context = utils.prepare_context(args.conditioning, batch, NORMS)
        loss = model(x, h, mask, None, context).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for average, new in zip(model_ema.parameters(), model.parameters()):
        average.data = 0.5 * average.data + 0.5 * new.data
    print("loss", loss.item())
    sample(model_ema, len(args.conditioning))
    for name, each in (("generative_model", model), ("generative_model_ema", model_ema)):
        torch.save(each.state_dict(), "outputs/" + args.exp_name + "/" + name + ".npy")
    with open("outputs/" + args.exp_name + "/args.pickle", "wb") as file:
        pickle.dump(args, file)
    end()
"""
_EVAL = """
    with open(os.path.join(options.model_path, "args.pickle"), "rb") as file:
        args = pickle.load(file)
    data = Loader()
    model, _, properties = {factory}(args, "cpu", {{}}, data)
    if properties is not None:
        properties.normalizer = NORMS
    weights = os.path.join(options.model_path, "generative_model_ema.npy")
    model.load_state_dict(torch.load(weights, weights_only=False))
    sample(model, len(args.conditioning))
    end()
"""
#: A script that makes no diffusion model, as those that train autoencoders or classifiers.
_OTHER = """
    import sys
    import wandb
    wandb.init(mode="disabled")
    print("arguments", sys.argv)
    print("main", __name__, sys.modules["__main__"].__dict__ is globals())
"""


def write_checkout(folder, kind):
    """Write the files of a checkout; `kind` is `edm` or `geoldm`."""
    factory = "get_model" if kind == "edm" else "get_latent_diffusion"
    files = {
        "qm9/__init__.py": "",
        "qm9/models.py": _MODELS + (_LATENT if kind == "geoldm" else ""),
        "qm9/utils.py": _UTILS,
        "equivariant_diffusion/__init__.py": "",
        "equivariant_diffusion/en_diffusion.py": (
            Path(__file__).parent / "edm_like.py"
        ).read_text(),
        "configs/__init__.py": "",
        "configs/datasets_config.py": _DATA,
        "main_qm9.py": (_COMMON + _MAIN).format(factory=factory),
        "eval_analyze.py": (_COMMON + _EVAL).format(factory=factory),
        "main_other.py": _OTHER,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder
