// llama.cpp behind node-llama-cpp: token ids in, token ids and logits out. No tokenizer and no sampler of its own takes part.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// `directory` holds node_modules. `threads` 0: as many as the package chooses.
// `kv`: the type of keys and values, "F32" say; null: its own default, F16.
export async function open(directory, modelPath, { threads = 0, contextSize, batchSize = 512, kv = null }) {
    const { getLlama } = await import(pathToFileURL(join(directory, "node_modules/node-llama-cpp/dist/index.js")));
    const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: 0 });
    const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
    const context = await model.createContext({ contextSize, batchSize, threads, ...(kv ? { experimentalKvCacheKeyType: kv, experimentalKvCacheValueType: kv } : {}) });
    const sequence = context.getSequence();
    return {
        threads: context.currentThreads,
        system: llama.systemInfo.trim(),
        release: llama.llamaCppRelease.release,

        // Evaluates the tokens after those before; the `top` best next tokens, [id, logit], best first.
        async next(tokens, top = 1) {
            const last = [tokens.at(-1), { generateNext: { logits: { filter: { tokens: [], includeTop: top } } } }];
            const results = await sequence.controlledEvaluate([...tokens.slice(0, -1), last]);
            return [...results.at(-1).next.logits];
        },
        async reset() { await sequence.clearHistory(); },
        async close() { await llama.dispose(); },
    };
}
