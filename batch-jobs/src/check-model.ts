/**
 * Whether a model can be used, before a job runs and as far as it can be told before its weights have come: the same checks
 * as opening it for a job (`model-weights.ts`), but all problems instead of the first, and from headers alone.
 */
import { InputError } from './errors.ts';
import { parseNativeConfig } from './exporters/native-config.ts';
import { parseJsonObject } from './formats/json.ts';
import {
  checkIndex,
  configFile,
  formatOf,
  indexFile,
  maxConfigBytes,
  maxIndexBytes,
  openModelFolder,
  readConfig,
  weightsFile,
} from './formats/model-folder.ts';
import { checkIncomingHeader, floatDtype } from './formats/safetensors.ts';
import { tensorShapes } from './models/decoder-config.ts';
import { checkVocabulary, parseModelConfig, tensorProblems } from './models/registry.ts';
import type { ReadableStore, StoredObject } from './storage/store.ts';

/**
 * What makes a model folder unusable; nothing when it is good. Weights are not read, so that their values are not looked at.
 * @param prefix ends in a slash; problems name files relative to it
 */
export async function modelProblems(store: ReadableStore, prefix: string): Promise<InputError[]> {
  const folderStore = under(store, prefix);
  const problems: InputError[] = [];
  const add = (problem: InputError): void => {
    const isKnown = problems.some(({ code, param }) => code === problem.code && param === problem.param);
    if (!isKnown) problems.push(problem);
  };
  const attempt = async <Result>(work: () => Promise<Result> | Result): Promise<Result | null> => {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      add(error);
      return null;
    }
  };
  // Only here is the library needed.
  const { openTokenizer } = await import('./formats/tokenizer.ts');
  const configJson = await attempt(() => readConfig(folderStore, ''));
  const config = configJson && (await attempt(() => parseModelConfig(configJson)));
  const folder = await attempt(() => openModelFolder(folderStore, ''));
  const tokenizer = await attempt(() => openTokenizer(folderStore, ''));
  if (folder?.format === 'native') await attempt(() => parseNativeConfig(folder.configJson.quantization_config));
  if (config && folder?.format === 'original') {
    for (const problem of tensorProblems(config, folder.tensors)) add(problem);
    for (const name of tensorShapes(config).keys()) {
      const info = folder.tensors.get(name);
      if (info) await attempt(() => floatDtype(info));
    }
  }
  if (config && tokenizer) await attempt(() => checkVocabulary(config, tokenizer.vocabSize));
  return problems;
}

export interface IncomingCheck {
  /** Takes the next bytes of the file.  @throws InputError as soon as the file cannot be part of a model */
  add(piece: Uint8Array): void;
  /** @throws InputError as `add`, once all has come */
  end(): void;
}

/**
 * What can be told of one file of a model while it comes in: the header of weights, the family that `config.json` names, the
 * shards that the index names.  @param paths of all files of the model   @returns null when nothing can
 */
export function checkIncoming(
  { path, sizeBytes }: { path: string; sizeBytes: number },
  paths: readonly string[],
): IncomingCheck | null {
  if (path.endsWith('.safetensors')) return { add: checkIncomingHeader(path, sizeBytes), end: () => undefined };
  if (path === configFile)
    return checkWhole(path, sizeBytes, maxConfigBytes, (bytes) => {
      const configJson = parseJsonObject(bytes, path);
      formatOf(configJson);
      parseModelConfig(configJson);
    });
  // With all weights in one file an index is not looked at.
  if (path === indexFile && !paths.includes(weightsFile))
    return checkWhole(path, sizeBytes, maxIndexBytes, (bytes) => checkIndex(parseJsonObject(bytes, path), paths));
  return null;
}

function checkWhole(
  path: string,
  sizeBytes: number,
  maxBytes: number,
  check: (bytes: Uint8Array) => void,
): IncomingCheck {
  if (sizeBytes > maxBytes)
    throw new InputError(
      'file_too_large',
      `${path} has ${sizeBytes} bytes; at most ${maxBytes} are read of such a file. Is it the right file?`,
      path,
    );
  const pieces: Uint8Array[] = [];
  return {
    add: (piece) => void pieces.push(piece.slice()),
    end: () => check(Buffer.concat(pieces)),
  };
}

/** The keys under a prefix, without it. */
function under(store: ReadableStore, prefix: string): ReadableStore {
  return {
    get: (key, range) => store.get(prefix + key, range),
    head: (key) => store.head(prefix + key),
    async list(within, { after, limit } = {}): Promise<StoredObject[]> {
      const page = await store.list(prefix + within, {
        limit,
        after: after === undefined ? undefined : prefix + after,
      });
      return page.map(({ key, sizeBytes }) => ({ key: key.slice(prefix.length), sizeBytes }));
    },
  };
}
