/** Version of the product; part of what a result depends on. */
export const version = '0.1.0';
