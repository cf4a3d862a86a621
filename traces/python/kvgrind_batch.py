"""A batch of sequences fed together, from their first pass to their last; passes of prompts leave at once, layer by layer."""
import ctypes as c
import json

import torch

import kvgrind_capi as capi
from kvgrind_capi import RecordError
from kvgrind_lse import lse as lse_again
from kvgrind_steps import Steps
from kvgrind_tensors import KINDS, head_rows, place, plain


class _Row:
    """One sequence of a batch."""

    def __init__(self, sequence):
        self.sequence, self.tokens, self.prompt, self.pad = sequence, 0, 0, None
        self.done = False
        self.next_token = -1


class Batch:
    """The sequences that are being fed together, from their first pass to their last."""

    def __init__(self, recording, rows):
        self.r = recording
        self.rows = [_Row(recording.next_sequence + i) for i in range(rows)]
        if recording.next_sequence + rows > recording.spare:
            raise RecordError(f"recording: found sequence {recording.next_sequence + rows}, expected at most "
                              f"{recording.spare}: give record(sequences=…)")
        recording.next_sequence += rows
        self.segments, recording.coming_segments = recording.coming_segments, None
        self.slots = 0            # fed so far, padding included
        self.cache = None
        self.checked = set()
        self.hidden = {}
        self.begun = False        # the pass under way has been announced
        self.steps = None
        self.quick = None         # the steps while a decode step's layers need nothing but to be kept
        self.described = False
        self.right_padded = False
        self.compiled = False     # queries lie in buffers of a compiled graph
        self.positions = []       # (position of a row's first token as given, as it is): compared at the end

    # A pass: rows [a, a + n) of each sequence are real.
    def begin(self, ids, mask, position_ids):
        r, count = self.r, ids.shape[1]
        self.ids, self.hidden = ids, {}
        self.decode = count == 1 and self.slots > 0
        if self.decode and self.steps is None:
            self.steps = Steps(self)
        if not self.decode:
            self._flush()
            self.parts = self._parts(count, self._mask_of(mask, count))
            self._check_positions(position_ids)
        self.slots += count
        self.begun = False
        self.quick = self.steps if self.decode and self.steps.quick else None
        if self.decode:
            self.steps.begin(ids)

    def _mask_of(self, mask, count):
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            mask = self.r.generating["mask"] if self.r.generating else None
        if mask is None or mask.shape[1] < self.slots + count:
            return None
        return mask[:, self.slots:self.slots + count].bool().cpu()

    def _parts(self, count, mask):
        parts = []
        for b, row in enumerate(self.rows):
            a, n = 0, count
            if mask is not None:
                real = mask[b].nonzero()[:, 0]
                n = int(real.numel())
                a = int(real[0]) if n else count
                if n and int(real[-1]) - a + 1 != n:
                    raise RecordError("recording: found a mask with holes, expected padding left or right of each prompt")
            if self.right_padded and n:
                raise RecordError("recording: found tokens after right padding, expected left padding when more follows")
            if row.pad is None and n:
                row.pad = self.slots + a
            parts.append((b, a, n))
        self.right_padded = self.right_padded or any(n and a + n < count for _, a, n in parts)
        return parts

    def _check_positions(self, position_ids):
        if position_ids is None or position_ids.dim() != 2:
            if any(row.pad for row in self.rows):
                self._remark_positions()
            return
        for b, a, n in self.parts:
            where = position_ids[b if position_ids.shape[0] > 1 else 0]
            if n:
                self.positions.append((where[a].clone(), self.rows[b].tokens))

    def _remark_positions(self):
        line = "RoPE: keys of left-padded rows are rotated at their place in the padded batch (no position_ids were given)"
        if line not in self.r.remarks:
            self.r.remarks.append(line)

    def _describe(self, dtype):
        r = self.r
        decode = r.generating["decode"] if r.generating else 0
        texts = []
        for b, a, n in self.parts:
            row = self.rows[b]
            row.prompt = row.tokens + n
            if r.generating and r.generating["prompt"] and not self.described and len(self.rows) == 1:
                row.prompt = max(row.prompt, r.generating["prompt"])  # fed in chunks
            own = self.segments[b] if self.segments else [("context", 0, row.prompt)]
            texts.append({"tokens": row.prompt, "decode": decode,
                          "segments": [{"role": role, "begin": begin, "end": end} for role, begin, end in own]})
        if not r.opened:
            r.open(texts, dtype)
        else:
            for row, text in zip(self.rows, texts):
                r.recorder.call("kvg_describe", row.sequence, json.dumps(text).encode())
        self.described = True

    def _announce(self, key):
        """The pass's begin, once its first layer has shown the type of the keys."""
        self._describe(key.dtype)
        self.parts = [p for p in self.parts if p[2] > 0]
        ids = self.ids
        self.keep = [ids]
        begun = (capi.Part * len(self.parts))()
        for i, (b, a, n) in enumerate(self.parts):
            mine = ids[b, a:a + n].contiguous()
            self.keep.append(mine)
            begun[i] = capi.Part(self.rows[b].sequence, self.rows[b].tokens, n, mine.data_ptr(), None)
        self.call_begin(begun, ids, 0)
        self.begun = True

    def call_begin(self, begun, ids, decode):
        recorder, where = self.r.recorder, place(ids)
        try:
            recorder.call("kvg_begin", begun, len(begun), ids.element_size(), decode, *where)
        except RecordError as error:
            if error.code != capi.NO_ROOM:
                raise
            recorder.call("kvg_drain")  # what cannot be left out waits
            recorder.call("kvg_begin", begun, len(begun), ids.element_size(), decode, *where)

    def layer(self, l, query, key, value, lse):
        """lse [B, Hq, n] as the model's own attention had it, or None."""
        if self.decode:
            self.steps.layer(l, query, key, value, lse)
            return
        if not any(n for _, _, n in self.parts):
            return
        if not self.begun:
            self._announce(key)
        r, card = self.r, self.r.card
        count = query.shape[2]
        base, offset = self.first_new(key, count)
        hidden, attn_in = self._norms(("hidden", l)), self._norms(("attn_in", l))
        keep, parts = [], (capi.LayerPart * len(self.parts))()
        for i, (b, a, n) in enumerate(self.parts):
            row = self.rows[b]
            end = base + a + n
            if lse is not None:
                own_lse = lse[b, :, a:a + n].transpose(0, 1).contiguous()
            else:
                own_lse = self.lse_of(l, query[b, :, a:a + n].transpose(0, 1), key[b], row, row.tokens, offset, end)
            keep.append(own_lse)
            own = capi.LayerPart(head_rows(query[b], 1, 0, a), head_rows(key[b], 1, 0, base + a),
                                 head_rows(value[b], 1, 0, base + a), own_lse.data_ptr(), None, None)
            for name, norms in (("hidden_norm", hidden), ("attn_in_norm", attn_in)):
                if norms is not None:
                    mine = norms[b, a:a + n].contiguous()
                    keep.append(mine)
                    setattr(own, name, mine.data_ptr())
            parts[i] = own
        r.recorder.call("kvg_layer", l, parts, *place(query))

    def _norms(self, which):
        hidden = self.hidden.pop(which, None)
        return None if hidden is None else torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)

    def first_new(self, key, count):
        """(index of the first new row in the cache as shown, slots that the cache has let go)"""
        length = key.shape[2]
        if length >= self.slots:  # all there; a static cache has room behind
            return self.slots - count, 0
        return length - count, self.slots - length

    def lse_of(self, l, q, key, row, first, offset, end):
        """q [n, Hq, D] at positions first … of `row`, over rows of key [Hk, slots, D] before `end`."""
        card = self.r.card
        begin = max(0, (row.pad or 0) - offset)
        before = begin + offset - (row.pad or 0)  # tokens of the row that the cache has let go
        sinks = self.r.sinks[l].to(q.device) if self.r.sinks else None
        return lse_again(self.r.library if q.is_cuda else None, q, key[:, begin:end], first - before, card["scale"],
                         card["softcap"], card["layer"][l]["window"], sinks)

    def agrees(self, l, query, key, lse):
        """Whether the model's own LSE is that of the attention the card describes: the last rows of one sequence."""
        count = query.shape[2]
        b, a, n = (0, 0, 1) if self.decode else next((p for p in self.parts if p[2]), (0, 0, 0))
        if n == 0:
            return True
        row, m = self.rows[b], min(n, 16)
        base, offset = self.first_new(key, count)
        first = row.tokens + (self.steps.waiting if self.decode else n - m)
        again = self.lse_of(l, query[b, :, a + n - m:a + n].transpose(0, 1), key[b], row, first, offset, base + a + n)
        return torch.allclose(lse[b, :, a + n - m:a + n].transpose(0, 1), again, atol=5e-3, rtol=1e-3)

    def end(self, logits):
        if self.decode:
            self.steps.end(logits)
            return
        if not self.begun:
            return
        rows, self.begun = sum(n for _, _, n in self.parts), False
        end = capi.EndRows(size=c.sizeof(capi.EndRows))
        keep = []
        final = self._norms(("final", 0))
        if final is not None:  # all layers' norms went along with the layers; the last column comes with these
            L = self.r.card["layers"]
            own = torch.full((rows, L + 1), float("nan"), device=final.device)
            own[:, L] = torch.cat([final[b, a:a + n] for b, a, n in self.parts])
            keep.append(own)
            end.hidden_norm = own.data_ptr()
        if logits is not None:
            self._logits(end, logits, keep)
        self.r.recorder.call("kvg_end", c.byref(end), *place(self.ids))
        at = 0
        for b, _, n in self.parts:
            self.rows[b].tokens += n

    def _logits(self, end, logits, keep):
        count, given = self.ids.shape[1], logits.shape[1]
        index, pieces, at = [], [], 0
        limit = (64 << 20) // (4 * logits.shape[2])
        for b, a, n in self.parts:
            rows = range(a, a + n)
            rows = [i for i in rows if i - (count - given) >= 0]
            if len(rows) > limit:
                rows = rows[-1:]
                line = "reference log-probabilities: of long passes, the last row only"
                if line not in self.r.remarks:
                    self.r.remarks.append(line)
            if rows:
                first = rows[0] - (count - given)
                pieces.append(logits[b, first:first + len(rows)])
                index += [at + i - a for i in rows]
            at += n
        if not index:
            return
        own = plain(torch.cat(pieces))
        places = (c.c_int64 * len(index))(*index)
        keep += [own, places]
        end.logit_rows, end.vocab, end.logits_dtype = len(index), own.shape[1], KINDS[own.dtype]
        end.logit_row, end.logits = c.cast(places, c.c_void_p), own.data_ptr()

    def _flush(self):
        if self.steps is not None:
            self.steps.flush(wait=True)

    def finish(self, next_tokens):
        self._flush()
        if not self.described:
            return
        if self.positions:
            given = torch.stack([where.to(self.positions[0][0].device) for where, _ in self.positions]).tolist()
            if given != [tokens for _, tokens in self.positions]:
                self._remark_positions()
        for b, row in enumerate(self.rows):
            next_token = row.next_token if row.done else next_tokens[b] if b < len(next_tokens) else -1
            self.r.recorder.call("kvg_sequence_done", row.sequence, next_token)
