"""Decode steps that wait on the device until a block of them leaves together.

A step costs its layers no work on the device: the query, and the LSE where the model's attention gives it, are kept as
the tensors they are. When the block leaves, they are put together, and K and V are read from the cache as it then is.
In the first step queries are copied and compared once the step is over: a model that writes over its queries, or whose
queries are views of something large, has them copied from then on.
"""
import ctypes as c

import torch

import kvgrind_capi as capi
from kvgrind_tensors import KINDS, head_rows, place, plain


class Steps:
    def __init__(self, batch):
        self.batch, self.r = batch, batch.r
        self.size = self.r.steps
        self.n = 0            # whole steps that wait
        self.debt = 0         # steps before them whose queries are lost and whose K and V still lie in the cache
        L = self.r.card["layers"]
        self.query = [[] for _ in range(L)]  # [B, Hq, 1, D] of each step
        self.lse = [[] for _ in range(L)]    # [B, Hq, 1] of each step, or None: computed from the cache
        self.last = [None] * L               # K and V as the cache last showed them
        self.window = [bool(layer["window"]) for layer in self.r.card["layer"]]
        self.own = {}         # layers whose cache lets go of keys: K and V of each step
        self.copies = True    # queries are copied
        self.proof = []       # (query, its copy) of the first step
        self.static = False   # the cache has room behind
        self.norm_order = ([("hidden", l) for l in range(L)] + [("final", 0)] + [("attn_in", l) for l in range(L)])
        self.ids, self.logits, self.norms = [], [], []
        self.old_ids = []
        self.open = False

    def begin(self, ids):
        self.ids.append(ids)
        whole = len(self.ids) >= (1 if self.static and not self.r.generating else self.size)
        if whole and self._room():
            self._announce()

    def _room(self):
        """Whether the waiting steps may leave now. Under `drop` they are given up where there is no room for them."""
        if self.r.pressure != "drop" or self.own or self.open:
            return True
        rows = (self.debt + len(self.ids)) * len(self.batch.rows)
        need = self.r.recorder.pass_bytes(rows, rows, rows if self.r.logits else 0)
        status = self.r.recorder.status()
        if need <= status["free_bytes"] or need > status["spool_bytes"] // 2:
            return True
        self.dropping = True
        return False

    dropping = False

    def _announce(self):
        batch = self.batch
        ids = torch.cat(self.old_ids + self.ids, dim=1)
        total = ids.shape[1]
        self.parts = []
        cut = ids.cpu() if self.r.generating and len(batch.rows) > 1 and self.r.generating["eos"] else None
        for b, row in enumerate(batch.rows):
            n = total
            if cut is not None and not row.done:
                ends = [i for i, t in enumerate(cut[b].tolist()) if t in self.r.generating["eos"]]
                if ends:  # the end of the text was sampled; what is fed after it is padding
                    n, row.done, row.next_token = ends[0], True, int(cut[b, ends[0]])
            elif row.done:
                n = 0
            if n:
                self.parts.append((b, n))
        self.open = True
        if not self.parts:
            return
        self.keep = [ids]
        begun = (capi.Part * len(self.parts))()
        lost = None
        if self.debt:
            lost = (c.c_uint8 * total)(*([0] * self.debt + [1] * (total - self.debt)))
            self.keep.append(lost)
        for i, (b, n) in enumerate(self.parts):
            mine = ids[b, :n].contiguous()
            self.keep.append(mine)
            begun[i] = capi.Part(batch.rows[b].sequence, batch.rows[b].tokens, n, mine.data_ptr(),
                                 c.cast(lost, c.c_void_p) if lost is not None else None)
        batch.call_begin(begun, ids, 1)

    @property
    def waiting(self):
        return self.debt + self.n

    def layer(self, l, query, key, value, lse):
        if self.copies:
            copy = query.clone(memory_format=torch.contiguous_format)
            if self.proof is not None:
                self.proof.append((query, copy))
            query = copy
            self.static = self.static or key.shape[2] > self.batch.slots
        if self.window[l]:
            lse = self._keep_own(l, query, key, value, lse)
        self.hold(l, query, key, value, lse)
        if self.open:
            self._send(l, key, value, self.n + 1)

    @property
    def quick(self):
        return not self.copies and not any(self.window)

    def hold(self, l, query, key, value, lse):
        self.last[l] = (key, value)
        self.query[l].append(query)
        self.lse[l].append(lse)

    def _prove(self):
        pairs, self.proof = self.proof, None
        small = all(q.untyped_storage().nbytes() <= 4 * q.numel() * q.element_size() for q, _ in pairs)
        self.copies = self.batch.compiled or not small or not all(torch.equal(q, copy) for q, copy in pairs)

    def _keep_own(self, l, query, key, value, lse):
        batch = self.batch
        ring = self.own.get(l)
        if ring is None:
            make = lambda x: torch.empty(self.size, x.shape[0], x.shape[1], x.shape[3], dtype=x.dtype, device=x.device)
            ring = self.own[l] = (make(key), make(value))
        base, offset = batch.first_new(key, 1)
        ring[0][self.n].copy_(key[:, :, base])
        ring[1][self.n].copy_(value[:, :, base])
        if lse is not None:
            return lse
        return torch.stack([batch.lse_of(l, query[b].transpose(0, 1), key[b], row, row.tokens + self.n, offset, base + 1)[0]
                            for b, row in enumerate(batch.rows)]).unsqueeze(2)

    def _send(self, l, key, value, n):
        """K, V, Q and LSE of the debt and of n steps, the last of which is the newest in the cache."""
        batch = self.batch
        if not self.parts:
            return
        out, keep, own = (capi.LayerPart * len(self.parts))(), [], self.own.get(l)
        base, offset = batch.first_new(key, 1)
        start = base + 1 - self.debt - n  # index in the cache of the first of them
        query = torch.cat(self.query[l][:n], dim=2) if n else None  # [B, Hq, n, D]
        lse = self.lse[l][:n]
        given = torch.cat(lse, dim=2).transpose(1, 2) if n and all(x is not None for x in lse) else None  # [B, n, Hq]
        for i, (b, count) in enumerate(self.parts):
            row, fresh, rows_lse = batch.rows[b], max(0, count - self.debt), None
            q = head_rows(query[b], 1, 0, -self.debt) if n else head_rows(key[b], 1, 0)  # no query: none is read
            if own is not None:
                k, v = (head_rows(x[:, b], 0, 1) for x in own)
            else:
                k, v = (head_rows(x[b], 1, 0, start) for x in (key, value))
            if fresh and given is not None:
                rows_lse = given[b, :fresh].contiguous()
            elif fresh:
                rows_lse = batch.lse_of(l, query[b, :, :fresh].transpose(0, 1), key[b], row, row.tokens + self.debt,
                                        offset, start + count)
            if self.debt:
                lost = torch.full((min(self.debt, count), self.r.card["query_heads"]), float("nan"), device=key.device)
                rows_lse = lost if rows_lse is None else torch.cat([lost, rows_lse])
            keep.append(rows_lse)
            out[i] = capi.LayerPart(q, k, v, rows_lse.data_ptr(), None, None)
        self.r.recorder.call("kvg_layer", l, out, *place(key))

    def end(self, logits):
        batch = self.batch
        if logits is not None:
            self.logits.append(logits[:, -1])
        if len(batch.hidden) == len(self.norm_order):
            hidden = [batch.hidden[which] for which in self.norm_order]
            if len({h.device for h in hidden}) == 1:
                self.norms.append(torch.linalg.vector_norm(torch.cat(hidden, dim=1), dim=-1, dtype=torch.float32))
        batch.hidden = {}
        if self.proof is not None:
            self._prove()
        self.n += 1
        if self.open:
            self._end(self.n)
        elif self.dropping:
            self.dropping = False
            self.debt += self.n
            self.old_ids += self.ids
            self._restart()

    def _restart(self):
        self.n, self.ids, self.logits, self.norms = 0, [], [], []
        for l in range(len(self.query)):
            self.query[l], self.lse[l] = [], []

    def _end(self, n):
        batch, L, total = self.batch, self.r.card["layers"], self.debt + n
        if self.parts:
            end, keep = capi.EndRows(size=c.sizeof(capi.EndRows)), []
            which = [(b, count) for b, count in self.parts]
            if len(self.norms) == n:
                norms = torch.stack(self.norms)  # [n, B, 2 L + 1]
                if self.debt:
                    nan = torch.full((self.debt, *norms.shape[1:]), float("nan"), device=norms.device)
                    norms = torch.cat([nan, norms])
                for name, first, width in (("hidden_norm", 0, L + 1), ("attn_in_norm", L + 1, L)):
                    own = torch.cat([norms[:count, b, first:first + width] for b, count in which]).contiguous()
                    keep.append(own)
                    setattr(end, name, own.data_ptr())
            if len(self.logits) == n:
                index, pieces, at = [], [], 0
                logits = torch.stack(self.logits)  # [n, B, V]
                for b, count in which:
                    if count > self.debt:
                        pieces.append(logits[:count - self.debt, b])
                        index += [at + i for i in range(self.debt, count)]
                    at += count
                if index:
                    own = plain(torch.cat(pieces))
                    places = (c.c_int64 * len(index))(*index)
                    keep += [own, places]
                    end.logit_rows, end.vocab, end.logits_dtype = len(index), own.shape[1], KINDS[own.dtype]
                    end.logit_row, end.logits = c.cast(places, c.c_void_p), own.data_ptr()
            self.r.recorder.call("kvg_end", c.byref(end), *place(self.ids[0]))
        for b, count in self.parts:
            batch.rows[b].tokens += count
        self.open, self.debt, self.old_ids = False, 0, []
        self._restart()

    def flush(self, wait):
        """What waits, though the block is not full: from the caches as they were last seen."""
        if self.n == 0 and self.debt == 0:
            return
        self.ids = self.ids[:self.n]
        if self.n == 0:  # steps without queries alone: their K and V
            self.ids, self.old_ids = [], self.old_ids
        self._announce()
        for l in range(self.r.card["layers"]):
            self._send(l, *self.last[l], self.n)
        if not self.ids:
            self.ids = self.old_ids[:1]
        self._end(self.n)
