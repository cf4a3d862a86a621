"""Shows the batch what its norms are taken of: each layer's residual, its attention's input, the final residual.

Hooks on layers and attentions tell for every model, at the price of a slower call of either. Where the first pass shows
that one module leads from the residual to the attention's input (a norm before attention), that module tells both from
then on, and these hooks go.
"""
import torch

_NAMES = ("input_layernorm", "ln_1", "input_norm", "attention_norm", "norm1")


class Norms:
    def __init__(self, recording):
        self.r = recording
        self.hooks, self.final, self.wrapped = [], [], []
        self.through = {}      # layer → (input, output) of its norm in the pass under way
        self.agreed = 0        # layers of the pass under way whose norm leads from residual to attention
        self.settled = False

    def attach(self):
        r, norms = self.r, []
        for l, (layer, attention) in enumerate(zip(r.layers, r.attention)):
            self.hooks.append(layer.register_forward_pre_hook(self._hook("hidden", l), with_kwargs=True))
            self.hooks.append(attention.register_forward_pre_hook(self._hook("attn_in", l), with_kwargs=True))
            norms.append(next((getattr(layer, n) for n in _NAMES if isinstance(getattr(layer, n, None), torch.nn.Module)), None))
        last = getattr(r.decoder, "norm", None) or getattr(r.decoder, "final_layernorm", None)
        if last is not None:
            self.final.append(last.register_forward_pre_hook(self._hook("final", 0), with_kwargs=True))
        if all(n is not None and "forward" not in n.__dict__ for n in norms) and len(set(map(id, norms))) == len(norms):
            for l, norm in enumerate(norms):
                norm.forward = self._forward(norm.forward, l)
                self.wrapped.append(norm)

    def detach(self):
        for hook in self.hooks + self.final:
            hook.remove()
        self._unwrap()
        self.hooks, self.final = [], []

    def _unwrap(self):
        for norm in self.wrapped:
            norm.__dict__.pop("forward", None)
        self.wrapped = []

    def pass_done(self):
        if self.settled or (self.agreed == 0 and not self.through):
            return
        if self.agreed == len(self.r.layers):
            for hook in self.hooks:
                hook.remove()
            self.hooks = []
        else:
            self._unwrap()
        self.settled, self.through = True, {}

    def _hook(self, kind, layer):
        is_compiling, key = torch.compiler.is_compiling, (kind, layer)

        def hook(module, arguments, keywords):
            batch = self.r.batch
            if batch is None or is_compiling():
                return
            hidden = arguments[0] if arguments else keywords.get("hidden_states")
            if hidden is not None:
                batch.hidden[key] = hidden
                if kind == "attn_in" and not self.settled:
                    x, y = self.through.pop(layer, (None, None))
                    self.agreed += y is hidden and x is batch.hidden.get(("hidden", layer))
        return hook

    def _forward(self, own, layer):
        is_compiling, before, behind = torch.compiler.is_compiling, ("hidden", layer), ("attn_in", layer)

        def forward(x, *arguments, **keywords):
            y = own(x, *arguments, **keywords)
            batch = self.r.batch
            if batch is not None and not is_compiling():
                if self.settled:
                    batch.hidden[before], batch.hidden[behind] = x, y
                else:
                    self.through[layer] = (x, y)
            return y
        return forward
