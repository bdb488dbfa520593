/** What differs between the quantization methods; `compress-model.ts` does the rest. */
export interface MethodDefinition {
  /** Keeps the weights of highest impact in 16 bits. */
  readonly keepsCherries: boolean;
  /** Trains the weights through the quantizer. */
  readonly trains: boolean;
}
