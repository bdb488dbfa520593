/**
 * What impact and training take of memory, part by part, before anything runs: the formula of docs/memory.md. Shapes give most of
 * it exactly; what an engine takes besides is measured, or, for a GPU, assumed (`overheads`). Everything is at its peak: parts
 * that a phase gives back before it needs others count once, as the largest of them.
 */
import type { Scheme, Training } from 'cherryq/contract';
import type { EngineName } from '../engine/engine.ts';
import type { DecoderConfig } from '../models/decoder-config.ts';
import { blockTensors, isLinear, parameterKindOf, tensorShapes } from '../models/decoder-config.ts';
import { defaultLimits } from '../models/decoder.ts';
import { mostWindows } from '../models/parts.ts';
import { cherryCount } from '../numeric/quantizer.ts';
import { defaultHiddenBytes } from './block-wise.ts';
import { keptQuantizedBytes } from './host-weights.ts';
import { momentBytes } from './moments.ts';
import { walkLength } from './walk.ts';

export interface MemoryPart {
  readonly part: string;
  readonly bytes: number;
}

export interface PhaseMemory {
  /** In main memory. */
  readonly host: readonly MemoryPart[];
  /** Where the engine computes: the GPU's memory, or main memory too. */
  readonly device: readonly MemoryPart[];
  readonly hostBytes: number;
  readonly deviceBytes: number;
}

export interface MemoryNeeded {
  readonly impact: PhaseMemory;
  readonly training: PhaseMemory;
  /** Of the moments' file; 0 without one. */
  readonly diskBytes: number;
}

export interface MemoryRequest {
  readonly config: DecoderConfig;
  readonly scheme: Scheme;
  readonly training: Training;
  readonly engine: EngineName;
}

interface Overhead {
  /** Of the process with its engine, before it has done anything. */
  readonly processBytes: number;
  readonly deviceBytes: number;
  /** Memory that the engine's allocator takes over what its tensors need. */
  readonly factor: number;
}

/** Of 32-bit floats. */
const floatBytes = 4;
const mebibyte = 1024 ** 2;
