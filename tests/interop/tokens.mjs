// Comparing greedy continuations, lists of {token, best, second}: the token and the two best logits.
import { readFileSync } from "node:fs";

// A tensor of 64-bit integers in a safetensors file, which is a length, a JSON header and data.
export function int64s(path, tensor) {
    const bytes = readFileSync(path);
    const headerSize = Number(bytes.readBigUInt64LE(0));
    const [begin, end] = JSON.parse(bytes.subarray(8, 8 + headerSize).toString())[tensor].data_offsets;
    const out = [];
    for (let i = begin; i < end; i += 8) out.push(Number(bytes.readBigInt64LE(8 + headerSize + i)));
    return out;
}

// The number of equal tokens, and whether they may differ after that: from the first close call on, where the
// two best logits differ by at most `closeness` or `otherwise(i)` says so. Up to there the best logits may
// differ by no more than that; with `whole` only there they are looked at.
export function equalTokens(a, b, closeness, otherwise = () => false, whole = false) {
    const isClose = (i) => a[i].best - a[i].second <= closeness || otherwise(i);
    let same = 0, largest = 0, close = null;
    for (; same < a.length && a[same].token === b[same].token; ++same) {
        if (close === null && isClose(same)) close = same;
        if (close === null || !whole) largest = Math.max(largest, Math.abs(a[same].best - b[same].best));
    }
    if (close === null && same < a.length && isClose(same)) close = same;
    return { same, largest, close, ok: largest <= closeness && (same === a.length || close !== null) };
}

export const describeTokens = (r, count) =>
    `${r.same} of ${count} tokens equal; best logits differ by ${r.largest.toExponential(1)} at most` +
    (r.close === null ? "" : `; close call at ${r.close}`);
