// llama.cpp through node-llama-cpp: token ids in, token ids and logits out. Its tokenizer and sampler are not
// used.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// `directory` contains node_modules. `threads` 0: the package's default.
// `kv`: the type of keys and values, such as "F32"; null: its default, F16. `lora`: {filePath, scale}, or
// null.
export async function open(directory, modelPath,
    { threads = 0, contextSize, batchSize = 512, kv = null, lora = null }) {
    const index = pathToFileURL(join(directory, "node_modules/node-llama-cpp/dist/index.js"));
    const { getLlama } = await import(index);
    const llama = await getLlama({
        gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: 0,
    });
    const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
    const types = kv ? { experimentalKvCacheKeyType: kv, experimentalKvCacheValueType: kv } : {};
    const adapters = lora ? { lora: { adapters: [lora] } } : {};
    const context = await model.createContext({ contextSize, batchSize, threads, ...types, ...adapters });
    const sequence = context.getSequence();
    return {
        threads: context.currentThreads,
        system: llama.systemInfo.trim(),
        release: llama.llamaCppRelease.release,

        // Evaluates `tokens` after the earlier ones. Returns the `top` best next tokens, [id, logit], best
        // first.
        async next(tokens, top = 1) {
            const filter = { tokens: [], includeTop: top };
            const last = [tokens.at(-1), { generateNext: { logits: { filter } } }];
            const results = await sequence.controlledEvaluate([...tokens.slice(0, -1), last]);
            return [...results.at(-1).next.logits];
        },
        async reset() { await sequence.clearHistory(); },
        async close() { await llama.dispose(); },
    };
}
