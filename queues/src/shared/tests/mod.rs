mod alike;
mod basics;
mod ends;
