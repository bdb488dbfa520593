/** The tokens that a model calls by a role, from `tokenizer_config.json`, else the older `special_tokens_map.json`. */
import type { ReadableStore } from '../storage/store.ts';
import { isJsonObject, readJsonObject } from './json.ts';
import type { JsonObject } from './json.ts';

export const maxTokenizerConfigBytes = 2 ** 24;

const roles = ['bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask'] as const;
type Name = `${(typeof roles)[number]}_token`;

/**
 * @param tokenizerConfig content of `tokenizer_config.json`   @param prefix of the model's folder
 * @returns the text of each token that is given; null for one that the model says it does not have
 */
export async function readSpecialTokens(
  store: ReadableStore,
  prefix: string,
  tokenizerConfig: JsonObject,
): Promise<ReadonlyMap<Name, string | null>> {
  const map = (await readJsonObject(store, `${prefix}special_tokens_map.json`, maxTokenizerConfigBytes)) ?? {};
  const tokens = new Map<Name, string | null>();
  for (const role of roles) {
    const name: Name = `${role}_token`;
    const token = name in tokenizerConfig ? tokenizerConfig[name] : map[name];
    const content = isJsonObject(token) ? token.content : token;
    if (typeof content === 'string' || content === null) tokens.set(name, content);
  }
  return tokens;
}
